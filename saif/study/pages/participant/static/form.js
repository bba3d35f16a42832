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
  return element("div", { class: "scale" }, element("span", {}, low), ...steps, element("span", {}, high));
}

const GUESSES = { L: "The left one", R: "The right one", unsure: "I can't tell" };

function field(question) {
  const { id, kind, required } = question;
  const text = required ? question.text : `${question.text} (optional)`;
  if (kind === "choice") {
    return group(text, ...question.options.map((option) => radio(id, option, option, required)));
  }
  if (kind === "likert") return group(text, scale(question));
  if (kind === "guess") {
    const options = Object.entries(GUESSES);
    return group(text, ...options.map(([value, label]) => radio(id, value, label, required)));
  }
  const area = element("textarea", { id: `q-${id}`, name: id, rows: 3, required });
  area.maxLength = question.max_length;
  return group(text, area);
}

export function value(form, { id, kind }) {
  if (kind === "text") return form.elements[id].value.trim() || null;
  const found = chosen(form, id);
  return kind === "likert" && found !== null ? Number(found) : found;
}

// Fill a form with questions; resolves to {id: answer} once it is sent.
export function ask(form, questions, label) {
  form.replaceChildren(
    ...questions.map(field),
    element("div", { class: "buttons" }, element("button", { type: "submit" }, label)),
  );
  form.hidden = false;
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.querySelector("button").disabled = true;
      done(questions.map((question) => [question.id, value(form, question)]));
    };
  });
}
