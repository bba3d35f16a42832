// A participant's way through the study. The server says what is due; this shows it.

import { isIn, note, post, Refused, use, wait } from "./api.js";
import { ask, pressed, submitted } from "./form.js";
import { declined, ended, isOver, keepReceipt, openWaysOut } from "./leaving.js";
import { byId, progress, show, tell, untilAgain } from "./screen.js";
import { compare } from "./trial.js";

const query = Object.fromEntries(new URLSearchParams(location.search));

// A link without a key of its own gets one, so that it can be opened again at the same place.
function ownKey() {
  if (document.body.dataset.recruitment !== "link" || "key" in query) return;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  query.key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  history.replaceState(null, "", `?${new URLSearchParams(query)}`);
}

async function agree() {
  const form = byId("consent").querySelector("form");
  if (!(await Promise.race([submitted(form), pressed(form.elements.decline)]))) {
    declined(await post("decline"));
    return null;
  }
  const share_text = form.elements.share?.checked ?? false;
  try {
    return entered(await post("consent", { query, consent_sha256: form.dataset.sha, share_text }));
  } catch (error) {
    if (error.status !== 409) throw error;
    const found = await post("enter", { query }); // it was paused, or the last place taken
    if (found.page === "consent") throw error;
    return entered(found);
  }
}

function entered(found) {
  if (!found.token) return found;
  use(found.token);
  keepReceipt(found.receipt);
  if (found.returning && found.page !== "ended") note("reloaded");
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
    case "unknown":
      show("unknown");
      byId("withdraw").open = true;
      return null;
    case "closed":
      await untilAgain("closed", due.why);
      return { page: "enter" };
    case "consent":
      show("consent");
      return agree();
    case "trial":
    case "trial_questions":
      show("trial");
      tell((await compare(due)) ?? "");
      return post("next");
    case "start_questions":
    case "end_questions":
      show("questions");
      await askAll(due);
      tell("");
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
      return isOver() ? null : post("next");
    default:
      ended(due);
      return null;
  }
}

async function run() {
  ownKey();
  openWaysOut();
  let due = { page: "enter" };
  while (due && !isOver()) {
    try {
      if (due.page === "enter") due = entered(await post("enter", { query }));
      else if (due.page === null) due = await post("next");
      else due = await step(due);
    } catch (error) {
      if (isOver()) return;
      await untilAgain("problem", error.message);
      byId("loading").hidden = false;
      // Another tab may have taken over: this one takes the study back, at the same place.
      const canGoOn = error instanceof Refused && error.status !== 401 && isIn();
      due = { page: canGoOn ? null : "enter" };
    }
  }
}

document.addEventListener("visibilitychange", () => {
  note(document.hidden ? "focus_lost" : "focus_regained");
});

run();
