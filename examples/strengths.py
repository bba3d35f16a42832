"""The same message at rising strength: from nothing through the calibrated dose to too much."""

import saif

model = saif.load_model("smollm2-135m-instruct")
preset = saif.load_preset("letter", model)

for strength in (0.0, 0.5, 1.0, 2.0):
    result = saif.compare(
        model,
        "My cat sleeps all day.",
        preset,
        strength=strength,
        prompted=False,
        max_new_tokens=24,
    ).result()
    print(f"strength {strength}, dose {result.steering.total_dose:.2f}: {result.steered.text!r}")
