"""Steer along a direction of your own: what separates two sets of prompts (DiffMean)."""

import saif
from saif.core.steering import Steering

model = saif.load_model("smollm2-135m-instruct")
layer = model.n_layers // 2
dose = 0.4  # the direction's length as a share of the residual stream's


def last_residuals(texts: list[str]):
    """The residual stream (len(texts), d_model) at the last prompt token."""
    prompts = [model.render([{"role": "user", "content": text}]) for text in texts]
    residuals, _ = model.residuals(prompts, [layer])  # left-padded
    return residuals[layer][:, -1].float()


sad = last_residuals(["Tell me a sad story.", "Write a sad poem.", "Say something sad."])
happy = last_residuals(["Tell me a happy story.", "Write a happy poem.", "Say something happy."])
direction = happy.mean(dim=0) - sad.mean(dim=0)
direction *= dose * sad.norm(dim=-1).mean() / direction.norm()
steering = Steering({layer: direction}, span="response", dose={layer: dose})

ids = model.tokenizer.apply_chat_template(
    [{"role": "user", "content": "How was your day?"}],
    add_generation_prompt=True,
    return_tensors="pt",
    return_dict=True,
)
with saif.steering(model.hf_model, steering):
    reply = model.hf_model.generate(**ids, max_new_tokens=24, do_sample=False)
print(model.tokenizer.decode(reply[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
