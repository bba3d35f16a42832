// A participant's way through the study. The server says what is due; this shows it.

import { isIn, note, post, Refused, use } from "./api.js";
import { ask, element } from "./form.js";
import { compare } from "./trial.js";

const byId = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("main > section")];
const query = Object.fromEntries(new URLSearchParams(location.search));
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let shownNow = null;

function show(id) {
  for (const section of sections) section.hidden = section.id !== id;
  if (shownNow !== id) {
    byId(id).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shownNow = id;
  byId("stop").hidden = !isIn() || id === "ended";
}

function progress({ place, of }) {
  byId("progress").hidden = !place;
  if (!place) return;
  byId("progress").querySelector("progress").value = (place - 1) / of;
  byId("progress").querySelector("span").textContent = `${place} of ${of}`;
}

// A link without a key of its own gets one, so that it can be opened again at the same place.
function ownKey() {
  if (document.body.dataset.recruitment !== "link" || "key" in query) return;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  query.key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  history.replaceState(null, "", `?${new URLSearchParams(query)}`);
}

function wayOut(place, way) {
  place.replaceChildren();
  if (!way) return;
  if (way.form) {
    const assignment = element("input", { type: "hidden", name: "assignmentId", value: query.assignmentId ?? "" });
    const code = element("input", { type: "hidden", name: "code", value: way.code });
    const button = element("button", { type: "submit" }, "Hand in the task");
    place.append(element("form", { method: "post", action: way.form, target: "_top" }, assignment, code, button));
  } else {
    place.append("Your code: ", element("span", { class: "code" }, way.code));
    if (way.link) {
      place.append(element("br"), element("a", { class: "button", href: way.link, rel: "noreferrer" }, "Go back to where you came from"));
    }
  }
}

const SAID = {
  complete: "Your answers are stored. You are done.",
  screened: "You don't match what this study looks for. What you did so far is stored.",
  stale: "You have left the study. What you did so far is stored.",
  withdrawn: "Your answers are left out of the results.",
  erased: "Everything you did and wrote here has been erased.",
};

function ended({ status, way_out: way, debrief }) {
  use(null);
  progress({});
  const section = byId("ended");
  section.querySelector(".sentence").textContent = SAID[status];
  wayOut(section.querySelector(".way-out"), way);
  // The study's own text, turned into HTML by the server, which lets no markup through.
  section.querySelector(".debrief").innerHTML = debrief;
  show("ended");
}

async function agree() {
  const form = byId("consent").querySelector("form");
  const decision = await new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      done("agree");
    };
    form.elements.decline.onclick = () => done("decline");
  });
  if (decision === "decline") {
    const { way_out: way } = await post("decline");
    wayOut(byId("declined").querySelector(".way-out"), way);
    show("declined");
    return null;
  }
  const share_text = form.elements.share?.checked ?? false;
  return entered(await post("consent", { query, consent_sha256: form.dataset.sha, share_text }));
}

function entered(found) {
  if (!found.token) return found;
  use(found.token);
  byId("receipt").hidden = false;
  byId("receipt").querySelector("b").textContent = found.receipt;
  byId("receipt-given").value = found.receipt;
  if (found.returning) note("reloaded");
  return found;
}

const ASKED = { start_questions: "First some questions", end_questions: "Some last questions" };

async function askAll({ page, questions }) {
  byId("questions").querySelector("h2").textContent = ASKED[page];
  const form = byId("questions").querySelector("form");
  for (const [id, value] of await ask(form, questions, "Save my answers")) {
    try {
      await post("respond", { question: id, value });
    } catch (error) {
      if (error.status !== 409) throw error;
      return; // an answer before ended their part; what is due now says so
    }
  }
}

// Shows one thing that is due; resolves to the next, or to null where there is nothing more.
async function step(due) {
  progress(due);
  switch (due.page) {
    case "preview":
      show("preview");
      return null;
    case "consent":
      show("consent");
      return agree();
    case "trial":
    case "trial_questions":
      show("trial");
      await compare(due);
      return post("next");
    case "start_questions":
    case "end_questions":
      show("questions");
      await askAll(due);
      return post("next");
    case "finish": {
      show("finish");
      const next = await post("finish");
      if (next.page === "finish") await wait(2000);
      return next;
    }
    case "paused":
      show("paused");
      await wait(5000);
      return post("next");
    default:
      ended(due);
      return null;
  }
}

const again = () => new Promise((done) => {
  byId("problem").querySelector("[name=again]").onclick = () => done();
});

async function problem(error) {
  byId("problem").querySelector(".sentence").textContent = error.message;
  show("problem");
  await again();
  byId("loading").hidden = false;
  // Another tab may have taken over: this one takes the study back, at the same place.
  return error instanceof Refused && error.status !== 401 && isIn() ? { page: null } : { page: "enter" };
}

async function run() {
  ownKey();
  let due = { page: "enter" };
  while (due) {
    try {
      if (due.page === "enter") due = entered(await post("enter", { query }));
      else if (due.page === null) due = await post("next");
      else due = await step(due);
    } catch (error) {
      due = await problem(error);
    }
  }
}

byId("stop").onclick = () => byId("stopping").showModal();
byId("paused").querySelector("[name=leave]").onclick = () => byId("stopping").showModal();
byId("stopping").addEventListener("close", async () => {
  if (byId("stopping").returnValue !== "stop") return;
  const scope = byId("stopping").querySelector("input:checked").value || null;
  try {
    const found = await post("stop", { scope });
    const status = { analysis: "withdrawn", erase: "erased" }[scope] ?? "stale";
    ended({ status, ...found });
  } catch (error) {
    problem(error);
  }
});
byId("withdraw").querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const form = event.target;
  const state = form.querySelector(".state");
  const scope = form.elements.scope.value;
  try {
    await post("withdraw", { receipt: form.elements.receipt.value, scope });
    state.textContent = SAID[{ analysis: "withdrawn", erase: "erased" }[scope]];
  } catch (error) {
    state.textContent = error.message;
  }
};
document.addEventListener("visibilitychange", () => {
  note(document.hidden ? "focus_lost" : "focus_regained");
});

run();
