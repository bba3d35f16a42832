// One comparison: two answers that grow together, then the vote on them.

import { lines, note, post } from "./api.js";
import { ballotFields, inWords } from "./ballot.js";
import { ask, chosen, element, isComplete, pressed, sideName, submitted } from "./form.js";

const section = document.getElementById("trial");
const part = (selector) => section.querySelector(selector);
let current = new AbortController();

export function abandon() {
  current.abort();
}

function clear() {
  const steps = ".check, .message, .go-on, .vote, .questions, .next, .task";
  for (const step of section.querySelectorAll(steps)) step.hidden = true;
  part(".turns").replaceChildren();
  part(".report").open = false;
  part("#reason").value = "";
  say("");
}

function say(...words) {
  part(".state").replaceChildren(...words);
}

// Where the answers of a turn are written.
function showTurn({ message, L = "", R = "" }) {
  const shown = { L: element("p", {}, L), R: element("p", {}, R) };
  const answers = Object.entries(shown).map(([side, text]) =>
    element("div", { class: "answer" }, element("h3", {}, sideName(side)), text));
  part(".turns").append(
    element("p", { class: "message-shown" }, element("b", {}, "Message"), message),
    element("div", { class: "answers" }, ...answers),
  );
  return shown;
}

function complain(text) {
  part(".problem").textContent = text;
  part(".problem").hidden = !text;
}

async function typed() {
  const form = part(".message");
  const area = part("#message");
  area.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  await submitted(form, () => {
    const isEmpty = !area.value.trim();
    complain(isEmpty ? "Please type a message." : "");
    if (isEmpty) area.focus();
    return !isEmpty;
  });
  form.hidden = true;
  return area.value;
}

// One turn. Resolves to the last line, which says what comes next; throws where the turn failed.
async function turn(trial, k, message, text, signal) {
  const shown = showTurn({ message });
  let first = true;
  let last = null;
  say("Both answers are being written …");
  for await (const line of lines("turn", { trial: trial.id, k, text }, signal)) {
    if (line.waiting) say("Many people take part right now. Your turn comes in a moment …");
    if (line.done || line.refused || line.failed) last = line; // and read on, to the end
    if ("L" in line) {
      if (first) {
        note("first_token", trial.id);
        say("Both answers are being written …");
        first = false;
      }
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
    complain(found.refused ?? "");
    if (found.refused) continue;
    part("#message").value = "";
    next = found;
    k += 1;
  }
  return next.vote_id;
}

// The vote, once it is on the server's disk. before: the one that it replaces, which may be kept.
async function vote(trial, voteId, times, before = null) {
  const form = part(".vote");
  const buttons = [element("button", { type: "submit" }, "Save my choice")];
  if (before) buttons.push(element("button", { type: "button", class: "plain", name: "keep" }, "Keep it as it was"));
  const fields = ballotFields(form, Boolean(trial.check));
  form.replaceChildren(...fields, element("div", { class: "buttons" }, ...buttons));
  form.addEventListener("change", () => note("first_click", trial.id), { once: true });
  const kept = before ? [pressed(form.elements.keep)] : [];
  if (!(await Promise.race([submitted(form, isComplete), ...kept]))) {
    form.hidden = true;
    return before;
  }
  for (const field of form.elements) field.disabled = field.disabled || field.type === "submit";
  say("Saving …");
  const choice = chosen(form, "choice");
  const clearly = fields[1].hidden ? null : Number(chosen(form, "clearly"));
  await post("vote", {
    vote_id: voteId,
    choice,
    clearly,
    shown_ms: Math.round(times.shown),
    decided_ms: Math.round(performance.now() - times.complete),
  });
  form.hidden = true;
  return { choice, clearly };
}

function saved(trial, voted) {
  say("Your choice is saved: ", ...inWords(voted, Boolean(trial.check)), ".");
}

async function answered(trial, questions) {
  for (const [id, given] of await ask(part(".questions"), questions, "Save my answers")) {
    await post("respond", { question: id, value: given, trial: trial.id });
  }
  part(".questions").hidden = true;
}

// What is asked about a vote. In practice it is asked to be known, and goes nowhere.
async function askedAbout(trial, { choice }) {
  if (!trial.practice) {
    const due = await post("next");
    if (due.page === "trial_questions") await answered(trial, due.questions);
  } else if (trial.questions.length && choice !== "skip") {
    const practised = ask(part(".questions"), trial.questions, "Go on");
    part(".questions").prepend(element("p", { class: "hint" }, "This is practice: your answer is not kept."));
    await practised;
    part(".questions").hidden = true;
  }
}

// The participant may go on, or take the vote back; then they vote once more.
async function goOn(trial, times, voted) {
  for (;;) {
    saved(trial, voted);
    part(".next").hidden = false;
    part("[name=next]").focus();
    const changed = await Promise.race([
      pressed(part("[name=next]")),
      pressed(part("[name=change]")).then(() => true),
    ]);
    part(".next").hidden = true;
    if (!changed) return;
    say("");
    const { vote_id } = await post("reopen", { trial: trial.id });
    const before = voted;
    voted = await vote(trial, vote_id, times, before);
    if (voted !== before) {
      saved(trial, voted);
      await askedAbout(trial, voted);
    }
  }
}

async function reported(trial, stop) {
  await submitted(part(".report form"));
  const reason = part("#reason").value;
  stop.abort();
  clear(); // nobody has to look at it while it is being stored
  part(".report").hidden = true;
  say("Saving …");
  await post("report", { trial: trial.id, reason });
  return "Your report is saved. That comparison is left out, and does not come again.";
}

// `page` is what the server says is due. Resolves when the next thing may be asked for, to what
// is to be told then, if anything.
export async function compare(page) {
  clear();
  const place = `${page.place} of ${page.of}`;
  part("h2").textContent = `Comparison ${place}`;
  const stop = current = new AbortController();
  if (page.page === "trial_questions") {
    page.trial.turns.forEach(showTurn);
    part(".report").hidden = true;
    return answered(page.trial, page.questions);
  }
  const { trial } = await post("begin");
  if (!trial) return undefined;
  if (trial.practice) part("h2").textContent += " (practice)";
  if (trial.check) part("h2").textContent = `Question ${place}`;
  part(".report").hidden = false;
  note("shown", trial.id);
  const began = performance.now();
  const walk = async () => {
    trial.turns.forEach(showTurn);
    if (trial.check) {
      part(".check").textContent = trial.check;
      part(".check").hidden = false;
    }
    const voteId = trial.vote_id ?? (await allTurns(trial, stop.signal));
    // The same words for all: whether one was cut off is for the reader of both to see.
    if (!trial.check) say("Both answers have ended; long ones are cut off.");
    note("complete", trial.id);
    const times = { shown: performance.now() - began, complete: performance.now() };
    const voted = await vote(trial, voteId, times);
    part(".report").hidden = true;
    saved(trial, voted);
    await askedAbout(trial, voted);
    await goOn(trial, times, voted);
  };
  const reporting = reported(trial, stop);
  // A report takes the answers away, which ends their stream: that is no failure.
  const walking = walk().catch((error) => {
    if (stop.signal.aborted) return reporting;
    throw error;
  });
  return Promise.race([walking, reporting]);
}
