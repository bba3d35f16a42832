// Questions as fields of a form, and what was answered.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const PLACES = { L: ["Answer A", "left", "first"], R: ["Answer B", "right", "second"] };

// What an answer is called. On a narrow screen the two stand below each other, so neither is left.
export function sideName(side) {
  const [name, beside, below] = PLACES[side];
  return element(
    "span", {}, `${name} (`,
    element("span", { class: "wide" }, beside), element("span", { class: "narrow" }, below), ")",
  );
}

export function radio(name, value, label, required = false) {
  const input = element("input", { type: "radio", name, value, required });
  return element("label", { class: "option" }, input, element("span", {}, label));
}

export function group(legend, ...options) {
  return element("fieldset", {}, element("legend", {}, legend), ...options);
}

export function chosen(form, name) {
  return form.querySelector(`input[name="${name}"]:checked`)?.value ?? null;
}

function scale({ id, points, low, high, required }) {
  const steps = Array.from({ length: points }, (_, i) => radio(id, i + 1, `${i + 1}`, required));
  return element(
    "div", { class: "scale" },
    element("div", { class: "steps" }, ...steps),
    element("div", { class: "ends" }, element("span", {}, low), element("span", {}, high)),
  );
}

function field(question) {
  const { id, kind, required } = question;
  const text = required ? question.text : `${question.text} (optional)`;
  if (kind === "likert") return group(text, scale(question));
  if (kind === "choice" || kind === "guess") {
    const options = question.options?.map((option) => [option, option])
      ?? [["L", sideName("L")], ["R", sideName("R")], ["unsure", "I can't tell"]];
    return group(text, ...options.map(([value, label]) => radio(id, value, label, required)));
  }
  const area = element("textarea", { id: `q-${id}`, name: id, rows: 3, required });
  area.maxLength = question.max_length;
  return group(text, area);
}

function value(form, { id, kind }) {
  if (kind === "text") return form.elements[id].value.trim() || null;
  const found = chosen(form, id);
  return kind === "likert" && found !== null ? Number(found) : found;
}

function lacks(fieldset) {
  const area = fieldset.querySelector("textarea");
  if (area) return area.required && !area.value.trim();
  return fieldset.querySelector("input:invalid") !== null;
}

// Whether all that must be answered is. Says on the page what is not; a browser's own bubble is
// gone after a moment, and on some phones never there.
export function isComplete(form) {
  for (const told of form.querySelectorAll(".missing")) told.remove();
  const missing = [...form.querySelectorAll("fieldset:not([hidden])")].filter(lacks);
  for (const one of missing) {
    const told = element("p", { class: "problem missing" }, "This is still to be answered.");
    one.querySelector("legend").after(told);
  }
  if (!missing.length) return true;
  const some = missing.length === 1 ? "One question is" : `${missing.length} questions are`;
  const told = element("p", { class: "problem missing", role: "alert" }, `${some} still to be answered.`);
  form.querySelector(".buttons").before(told);
  missing[0].querySelector("input, textarea").focus();
  return false;
}

// Show a form; resolves to true once it is sent and `isReady`, which says on the page if it is not.
export function submitted(form, isReady = () => true) {
  form.noValidate = true;
  form.hidden = false;
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      if (isReady(form)) done(true);
    };
  });
}

export const pressed = (button) => new Promise((done) => {
  button.onclick = () => done(false);
});

// Fill a form with questions; resolves to [id, answer] of each once it is sent.
export async function ask(form, questions, label) {
  form.replaceChildren(
    ...questions.map(field),
    element("div", { class: "buttons" }, element("button", { type: "submit" }, label)),
  );
  await submitted(form, isComplete);
  form.querySelector("button").disabled = true;
  return questions.map((question) => [question.id, value(form, question)]);
}
