"""Find an instruction's latents, calibrate a preset of them, and measure it beside its baselines.

Takes half an hour on two cores; the bars say how far it is. The preset goes to your data folder.
"""

import saif

model = saif.load_model("smollm2-135m-instruct")

(found,) = saif.identify(model, ["letter"], n=20)
for latent in found.preset.placements["post"].layers[-1].latents[:5]:
    print(latent.id, f"sensitivity {latent.sensitivity:.2f}", latent.words)

(preset,) = saif.calibrate(model, ["letter"], effort="quick")
choice = preset.preset.placements["post"].choice
print(f"layer {choice.layer}, {choice.latents.k} latents, dose {choice.dose:.2f}")

result = saif.evaluate(model, ["letter"], placement="post", n=10)
print(result)
print("Every reply:", result.folder.path)
