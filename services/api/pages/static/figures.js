// Figures are fetched, drawn in the page's colours, and answer to clicks. Responses are shown when asked for.
"use strict";

// How the service writes colours that the page has of its own: of the text, and of verdicts.
const COLOURS = { "#222222": "--text", "#1d6b35": "--good", "#a3221b": "--bad", "#b59a2c": "--warn" };
const WAIT_MS = 2000;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function dressed(figure, narrow) {
  const text = colour("--text");
  const grid = colour("--grid");
  const recolour = (part, name = COLOURS[part?.color]) => name && (part.color = colour(name));
  for (const trace of figure.data) {
    if (trace.type === "contour") recolour(trace.line, "--edge"); // it lies on other colours
    else [trace.line, trace.marker, trace.error_x, trace.error_y].forEach((part) => recolour(part));
    if (trace.colorbar) Object.assign(trace.colorbar, { tickfont: { color: text }, thickness: narrow ? 12 : 24 });
  }
  const layout = figure.layout;
  (layout.annotations ?? []).forEach((one) => recolour(one.font));
  layout.title = undefined; // the page has one
  layout.autosize = true;
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.font = { ...layout.font, color: text, size: narrow ? 12 : 14 };
  layout.margin = { l: narrow ? 50 : 70, r: narrow ? 10 : 30, t: 40, b: 60 };
  layout.legend = { orientation: "h", yref: "container", y: 0.01, yanchor: "bottom", x: 0.5, xanchor: "center" };
  const axes = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true };
  const named = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name));
  for (const name of ["xaxis", "yaxis", ...named]) layout[name] = { ...layout[name], ...axes };
  if (layout.coloraxis) Object.assign(layout.coloraxis.colorbar, { tickfont: { color: text }, thickness: narrow ? 12 : 24 });
  if (layout.grid && narrow) stack(layout, named.length / 2);
  if (layout.scene) layout.scene.camera = { eye: narrow ? { x: 2.3, y: 2.3, z: 1.6 } : { x: 1.4, y: 1.4, z: 1.1 } };
  for (const name of ["xaxis", "yaxis", "zaxis"]) {
    if (layout.scene) layout.scene[name] = { ...layout.scene[name], gridcolor: grid, color: text, backgroundcolor: "rgba(0,0,0,0)" };
  }
  return figure;
}

// So many planes that are abreast of each other, one below the other.
function stack(layout, rows) {
  layout.height = 340 * rows;
  layout.grid = { ...layout.grid, rows, columns: 1 };
}

const fetched = new WeakMap(); // figures as they came, to dress them anew

async function draw(plot) {
  try {
    const answer = await fetch(plot.dataset.figure, { headers: { accept: "application/json" } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(JSON.parse(text).problem);
    fetched.set(plot, text);
    paint(plot);
  } catch (error) {
    const told = document.createElement("p");
    told.className = "problem";
    told.setAttribute("role", "alert");
    told.textContent = `The figure cannot be drawn. ${error.message}`;
    plot.classList.remove("drawn");
    plot.replaceChildren(told);
  }
}

function paint(plot) {
  if (!fetched.has(plot)) return;
  const { data, layout } = dressed(JSON.parse(fetched.get(plot)), plot.clientWidth < 600);
  if (!plot.classList.contains("drawn")) plot.replaceChildren();
  plot.classList.add("drawn");
  plot.style.height = layout.height ? `${layout.height}px` : ""; // of a figure with many rows
  delete layout.height;
  Plotly.react(plot, data, layout, { responsive: true, displaylogo: false });
  if (plot.dataset.point && !plot.dataset.listens) {
    plot.dataset.listens = "yes";
    plot.on("plotly_click", (event) => show(plot, event.points[0]));
  }
}

function show(plot, point) {
  const beta = plot.dataset.plane === "1" ? point.y : 0;
  const at = `alpha=${encodeURIComponent(point.x)}&beta=${encodeURIComponent(beta)}`;
  htmx.ajax("GET", `${plot.dataset.point}&${at}`, { target: "#point", swap: "innerHTML" });
}

const all = (act) => document.querySelectorAll(".chart[data-figure]").forEach((plot) => act(plot));

// A part of the page that was exchanged may hold a figure; one that tells of progress makes it old.
let next = 0;
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id === "view") all(draw);
  const progress = document.getElementById("progress");
  if (event.target.id !== "progress" || !Number(progress.dataset.done) || Date.now() < next) return;
  next = Date.now() + WAIT_MS;
  const view = document.querySelector(".chart") ? "#numbers" : "#view";
  htmx.ajax("GET", location.href, { target: view, select: view, swap: "outerHTML" });
  if (view === "#numbers") all(draw);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-reveal]");
  if (!button) return;
  const scope = button.closest(button.dataset.reveal === "all" ? ".responses" : ".response");
  for (const text of scope.querySelectorAll(".blurred")) {
    text.classList.remove("blurred");
    text.removeAttribute("inert");
  }
  scope.querySelectorAll("[data-reveal]").forEach((one) => one.remove());
});

for (const media of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(media).addEventListener("change", () => all(paint));
}
all(draw);
