"""Answer a message unsteered, steered and prompted, and watch the replies grow."""

import saif

model = saif.load_model("smollm2-135m-instruct")
preset = saif.load_preset("translate-french", model)

steps = saif.compare(model, "The weather is lovely today.", preset, max_new_tokens=24)
for step in steps:
    print(step.steered.text)

result = steps.result()
print(result)  # every column under its name
print("positions steered:", result.steered.reply.steered)

# The conversation goes on where it was, each column with its own history.
print(saif.compare(model, "And tomorrow?", preset, history=result.comparison).result())
