// One comparison: two answers that grow together, then the vote on them.

import { lines, note, post } from "./api.js";
import { ask, chosen, element, group, radio } from "./form.js";

const section = document.getElementById("trial");
const part = (selector) => section.querySelector(selector);
const ballot = JSON.parse(section.dataset.ballot);
const CHOICES = {
  L: "The left answer",
  R: "The right answer",
  tie: "Both are equally good",
  both_bad: "Neither is any good",
  skip: "I would rather not say",
};

const pressed = (button) =>
  new Promise((done) => {
    button.onclick = () => done();
  });

function clear() {
  for (const selector of [".check", ".message", ".go-on", ".vote", ".questions", ".next", ".task"]) {
    const found = part(selector);
    if (found) found.hidden = true;
  }
  part(".turns").replaceChildren();
  part(".report").open = false;
  part("#reason").value = "";
  say("");
}

function say(text) {
  part(".state").textContent = text;
}

function showTurn(message) {
  const sides = ["Left", "Right"].map((name) => {
    const text = element("p");
    const answer = element("div", { class: "answer" }, element("h3", {}, `${name} answer`), text);
    return { answer, text };
  });
  part(".turns").append(
    element("p", { class: "message-shown" }, element("b", {}, "Message"), message),
    element("div", { class: "answers" }, ...sides.map((side) => side.answer)),
  );
  return { L: sides[0].text, R: sides[1].text };
}

function showExchange({ message, L, R }) {
  const shown = showTurn(message);
  shown.L.textContent = L;
  shown.R.textContent = R;
}

function typed() {
  const form = part(".message");
  const area = part("#message");
  form.hidden = false;
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      if (!area.value.trim()) return;
      form.hidden = true;
      done(area.value);
    };
    area.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    };
  });
}

// One turn. Resolves to the last line, which says what comes next; throws where the turn failed.
async function turn(trial, k, message, text, signal) {
  const shown = showTurn(message);
  let first = true;
  let last = null;
  say("Both answers are being written …");
  for await (const line of lines("turn", { trial: trial.id, k, text }, signal)) {
    if (line.waiting) say("Many people take part right now. Your turn comes in a moment …");
    if (line.done || line.refused || line.failed) last = line; // and read on, to the end
    if ("L" in line) {
      if (first) note("first_token", trial.id);
      if (first) say("Both answers are being written …");
      first = false;
      shown.L.textContent += line.L;
      shown.R.textContent += line.R;
    }
  }
  if (last === null) throw new Error("The connection was lost.");
  if (last.failed) throw new Error(last.failed);
  if (last.refused) {
    part(".turns").lastChild.remove();
    part(".turns").lastChild.remove();
  }
  return last;
}

async function allTurns(trial, signal) {
  let next = trial;
  let k = 0;
  while (!next.vote_id) {
    const free = next.message === null;
    if (part(".task")) part(".task").hidden = !free;
    if (k > 0 && !free) {
      say("");
      part(".go-on").hidden = false;
      await pressed(part(".go-on button"));
      part(".go-on").hidden = true;
    }
    const message = free ? await typed() : next.message;
    const found = await turn(trial, k, message, free ? message : null, signal);
    const problem = part(".problem");
    problem.hidden = !found.refused;
    if (found.refused) {
      problem.textContent = found.refused;
      continue;
    }
    part("#message").value = "";
    next = found;
    k += 1;
  }
  return next.vote_id;
}

function ballotFields(isCheck) {
  const offered = isCheck ? ["L", "R", "skip"] : ballot.choices;
  const choices = group(
    isCheck ? "Your choice" : ballot.text,
    ...offered.map((choice) => radio("choice", choice, CHOICES[choice], true)),
  );
  const clearly = group(
    "How clearly?",
    ...ballot.clearly.map((label, i) => radio("clearly", i + 1, label, true)),
  );
  clearly.hidden = clearly.disabled = true;
  choices.onchange = () => {
    const side = ["L", "R"].includes(chosen(part(".vote"), "choice"));
    clearly.hidden = clearly.disabled = !side || isCheck || ballot.clearly.length === 0;
  };
  return [choices, clearly];
}

// Resolves once the vote is on the server's disk.
async function vote(trial, voteId, times) {
  const form = part(".vote");
  const button = element("button", { type: "submit" }, "Save my choice");
  form.replaceChildren(...ballotFields(Boolean(trial.check)), element("div", { class: "buttons" }, button));
  form.hidden = false;
  form.addEventListener("change", () => note("first_click", trial.id), { once: true });
  await new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      done();
    };
  });
  for (const field of form.elements) field.disabled = field.disabled || field.type === "submit";
  say("Saving …");
  const clearly = part(".vote fieldset:nth-of-type(2)").hidden ? null : chosen(form, "clearly");
  await post("vote", {
    vote_id: voteId,
    choice: chosen(form, "choice"),
    clearly: clearly === null ? null : Number(clearly),
    shown_ms: Math.round(times.shown),
    decided_ms: Math.round(performance.now() - times.complete),
  });
  form.hidden = true;
  say("Your choice is saved.");
}

async function answered(trial, questions) {
  if (!questions.length) return;
  for (const [id, given] of await ask(part(".questions"), questions, "Save my answers")) {
    await post("respond", { question: id, value: given, trial: trial.id });
  }
  part(".questions").hidden = true;
  say("Your answers are saved.");
}

// The participant may go on, or take the vote back; then they vote once more.
async function goOn(trial, times) {
  for (;;) {
    const next = part(".next");
    next.hidden = false;
    next.querySelector("[name=next]").focus();
    const changed = await Promise.race([
      pressed(next.querySelector("[name=next]")).then(() => false),
      pressed(next.querySelector("[name=change]")).then(() => true),
    ]);
    next.hidden = true;
    if (!changed) return;
    const { vote_id } = await post("reopen", { trial: trial.id });
    await vote(trial, vote_id, times);
  }
}

function reported(trial, stop) {
  return new Promise((done) => {
    part(".report form").onsubmit = async (event) => {
      event.preventDefault();
      const reason = part("#reason").value;
      stop.abort();
      clear(); // nobody has to look at it while it is being stored
      say("Saving …");
      await post("report", { trial: trial.id, reason });
      done();
    };
  });
}

// `page` is what the server says is due. Resolves when the next thing may be asked for.
export async function compare(page) {
  clear();
  part("h2").textContent = `Comparison ${page.place} of ${page.of}`;
  const stop = new AbortController();
  if (page.page === "trial_questions") {
    page.trial.turns.forEach(showExchange);
    part(".report").hidden = true;
    return answered(page.trial, page.questions);
  }
  const { trial } = await post("begin");
  if (!trial) return undefined;
  if (trial.practice) part("h2").textContent += " (practice)";
  part(".report").hidden = false;
  note("shown", trial.id);
  const began = performance.now();
  const walk = async () => {
    trial.turns.forEach(showExchange);
    if (trial.check) {
      part(".check").textContent = trial.check;
      part(".check").hidden = false;
    }
    const voteId = trial.vote_id ?? (await allTurns(trial, stop.signal));
    if (!trial.check) say("Both answers are complete.");
    note("complete", trial.id);
    const times = { shown: performance.now() - began, complete: performance.now() };
    await vote(trial, voteId, times);
    part(".report").hidden = true;
    const due = await post("next");
    if (due.page === "trial_questions") await answered(trial, due.questions);
    await goOn(trial, times);
  };
  return Promise.race([walk(), reported(trial, stop)]);
}
