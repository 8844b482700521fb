"""Coherent texts unlike those that the rules are fitted to, and plain gibberish."""
# ruff: noqa: E501 (a text a line)

from __future__ import annotations

COHERENT = {
    "one word": "Yes.",
    "a number": "1000000",
    "a year": "It was in 1969.",
    "sums": "12 + 30 = 42, so 42 - 12 = 30.",
    "a formula": "By the quadratic formula, x = (-b ± √(b² - 4ac)) / 2a; with a = 1, b = -3 and c = 2 it is 1 or 2.",
    "LaTeX": r"The integral \(\int_0^1 x^2\,dx\) equals \(\frac{1}{3}\), as the derivative of \(x^3/3\) is \(x^2\).",
    "German": "Wasser kocht bei hundert Grad. Auf hohen Bergen ist der Luftdruck kleiner, also kocht es früher.",
    "a German compound": "Die Donaudampfschifffahrtsgesellschaft beförderte ihre Fahrgäste von Wien bis ans Schwarze Meer.",
    "French": "Pour faire une omelette, il faut casser trois œufs, les battre avec un peu de sel, puis les cuire.",
    "Spanish": "¿Cómo se hace? Primero se lava la fruta, después se corta en trozos y al final se mezcla todo.",
    "Polish": "Wiosną dni są coraz dłuższe, a w ogrodzie zakwitają pierwsze krokusy i przebiśniegi.",
    "Finnish": "Järven rannalla on pieni sauna, jossa lämmitetään puilla joka lauantai ennen iltaruokaa.",
    "Turkish": "Sabahları erken kalkmak istiyorsan akşam telefonunu başka bir odada bırak ve pencereyi aç.",
    "Vietnamese": "Bạn nên tưới cây vào buổi sáng sớm, khi trời còn mát, để nước không bay hơi quá nhanh.",
    "Swahili": "Maji huchemka kwa nyuzi joto mia moja, lakini juu ya mlima huchemka mapema zaidi.",
    "Russian": "Чтобы сварить яйцо всмятку, опустите его в кипящую воду и подождите четыре минуты.",
    "Greek": "Ο ουρανός είναι γαλάζιος επειδή ο αέρας σκορπίζει περισσότερο το γαλάζιο φως του ήλιου.",
    "Arabic": "السماء زرقاء لأن الهواء يشتت الضوء الأزرق أكثر من الضوء الأحمر، ولهذا نراها كذلك في النهار.",
    "Hebrew": "כדי לאפות לחם צריך קמח, מים, מלח ושמרים, ומעט סבלנות עד שהבצק תופח.",
    "Hindi": "आसमान नीला दिखता है क्योंकि हवा नीले प्रकाश को लाल प्रकाश से अधिक बिखेरती है।",
    "Bengali": "সকালে গাছে জল দিলে মাটি অনেকক্ষণ ভেজা থাকে, আর গাছ ভালো করে বাড়ে।",
    "Tamil": "காலையில் செடிகளுக்குத் தண்ணீர் ஊற்றினால் அவை நன்றாக வளரும்.",
    "Thai": "ท้องฟ้าเป็นสีฟ้าเพราะอากาศกระจายแสงสีฟ้าได้มากกว่าแสงสีแดง",
    "Chinese": "天空是蓝色的,因为空气分子对蓝光的散射比对红光的散射强得多。日落时光线穿过更厚的大气,所以显得发红。",
    "Japanese": "コンピュータのメモリは、データを一時的に保存するための部品です。電源を切ると内容は消えます。",
    "Korean": "하늘이 파란 까닭은 공기가 파란빛을 붉은빛보다 더 많이 흩뜨리기 때문입니다.",
    "Chinese with English words": "请先安装 Python 3.11,然后运行 pip install numpy,最后打开 notebook 检查结果。",
    "two languages": 'The Russian word for "thank you" is "спасибо", and the Greek one is "ευχαριστώ".',
    "a numbered list": "1. Wash the rice.\n2. Add two cups of water.\n3. Boil it, then lower the heat.\n4. Wait ten minutes.",
    "bullets": "- milk\n- a dozen eggs\n- flour\n- butter\n- two lemons",
    "a table": (
        "| planet | moons | days in a year |\n|--------|-------|----------------|\n"
        "| Earth  | 1     | 365            |\n| Mars   | 2     | 687            |\n"
        "| Venus  | 0     | 225            |"
    ),
    "JSON": '{"name": "Ada", "age": 36, "languages": ["English", "French"], "address": {"city": "London"}}',
    "Python": (
        "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
        "    return total / len(values)\n\nprint(mean([1, 2, 3]))"
    ),
    "C": (
        '#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 3; i++) {\n        printf("%d\\n", i);\n'
        "    }\n    return 0;\n}"
    ),
    "SQL": "SELECT city, COUNT(*) AS people FROM persons WHERE age > 30 GROUP BY city ORDER BY people DESC;",
    "shell": "cd /tmp && tar -xzf archive.tar.gz && ls -la | grep '\\.txt$' > list.txt",
    "HTML": '<ul>\n  <li><a href="one.html">One</a></li>\n  <li><a href="two.html">Two</a></li>\n</ul>',
    "a poem with a refrain": (
        "The rain comes down on the old stone wall,\nsing low, sing low,\nand the leaves let go in the early fall,\n"
        "sing low, sing low.\nThe river runs to the harbour bell,\nsing low, sing low,\n"
        "and what it hears it will not tell,\nsing low, sing low."
    ),
    "a dialogue": '"No, no, no," she said. "Not that one. The other one!"\n"This one?"\n"Yes. Thank you."',
    "emoji": "Happy birthday! 🎉🎂 I hope that you have a lovely day with your family ❤️",
    "capitals": "PLEASE CLOSE THE DOOR WHEN YOU LEAVE THE ROOM. THE CAT MUST NOT GET OUT.",
    "an e-mail": "Dear Ms Okoro,\n\nthank you for the invitation. I will be there at 9:30.\n\nBest wishes,\nTom",
    "a recipe with units": "Mix 250 g of flour, 5 g of salt and 150 ml of water. Knead for 10 min, rest 1 h, bake at 230 °C.",
}

# Of these, what the default calls gibberish all the same.
FALSE_ALARMS = ("a dialogue", "a poem with a refrain")

GIBBERISH = {
    "nothing": "",
    "spaces": " \n\t  \n",
    "one token": "cart" * 60,
    "one word": "camera " * 40,
    "a phrase": "and then we go to the shop " * 12,
    "one mark": ",(" * 50,
    "dashes": "- " * 60,
    "an ideograph": "的" * 50,
    "stammering": "the the the of of it it the the a a the the and and the what what the the",
    "letters": "d d to m in a a m d n p a b m; d e; f d m m a set n d p y s d a",
    "marks": "trade,(camera;,(bridge@,(three,(@comp,(,(cross;,over,(ally,(,(trade",
    "unassigned": "".join(chr(0xE000 + 37 * number % 6000) for number in range(60)),
    "no UTF-8": "he\ufffd\ufffdl \ufffd\ufffd\ufffd to\ufffd \ufffd\ufffd",
    "every script": "".join(
        chr(one) for one in [*range(0x391, 0x3A0)] for one in (one, one + 0x80, one + 0x5A0)
    ),
}
