"""The measurement of safety landscapes: no ray, vllm, fastapi or database in here."""
