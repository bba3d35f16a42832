"""Steer a plain transformers model, whose own `generate` writes the replies."""

import saif

model = saif.load_model("smollm2-135m-instruct")
preset = saif.load_preset("translate-french", model)
hf_model, tokenizer = model.hf_model, model.tokenizer  # or AutoModelForCausalLM's, of this model

tokenizer.padding_side = "left"
chats = [
    [{"role": "user", "content": text}]
    for text in ("The weather is lovely today.", "Where is the station?")
]
prompts = tokenizer.apply_chat_template(
    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
)

with saif.steering(hf_model, preset.steering(strength=1.0)) as context:
    replies = hf_model.generate(**prompts, max_new_tokens=24, do_sample=False)
print("positions steered:", context.steered)
for reply in replies[:, prompts["input_ids"].shape[1] :]:
    print(tokenizer.decode(reply, skip_special_tokens=True))
