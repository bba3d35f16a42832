// The ways out: the last page with code and receipt, stopping early, withdrawing.

import { isIn, post, use } from "./api.js";
import { element } from "./form.js";
import { byId, progress, show, tell, untilAgain } from "./screen.js";
import { abandon } from "./trial.js";

const service = document.body.dataset.service;
const assignment = new URLSearchParams(location.search).get("assignmentId") ?? "";
let receipt = null;
let last = null; // what is shown on the last page

const SAID = {
  complete: "Your answers are stored. You are done.",
  screened: "You don't match what this study looks for, so there is nothing more to do.",
  stale: "You have left the study. What you did so far is stored.",
  withdrawn: "Your answers are left out of the results.",
  erased: "Everything you did and wrote here has been erased.",
};
const STATUS = { analysis: "withdrawn", erase: "erased" };

// Whether the participant has come to their last page: whatever still runs must not replace it.
export function isOver() {
  return last !== null;
}

export function keepReceipt(given) {
  receipt = given;
  byId("receipt").hidden = false;
  byId("receipt").querySelector("b").textContent = given;
  byId("receipt-given").value = given;
}

// A code and a button that copies it.
function toCopy(code) {
  const shown = element("span", { class: "code" }, code);
  const button = element("button", { type: "button", class: "plain" }, "Copy");
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(code);
    } catch { // not over plain http, and not in every frame
      getSelection().selectAllChildren(shown);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  };
  return element("span", { class: "to-copy" }, shown, button);
}

function goBack(way) {
  const link = element("a", { class: "button", href: way.link, rel: "noreferrer" }, `Go back to ${service}`);
  return element("p", {}, link);
}

function wayOut(place, way) {
  place.replaceChildren();
  if (way?.form) {
    const fields = { assignmentId: assignment, code: way.code };
    const hidden = Object.entries(fields).map(([name, value]) => element("input", { type: "hidden", name, value }));
    const button = element("button", { type: "submit" }, "Hand in the task");
    place.append(element("form", { method: "post", action: way.form, target: "_top" }, ...hidden, button));
  } else if (way) {
    place.append(element("p", {}, "Your code: ", toCopy(way.code)));
    if (way.link) place.append(goBack(way));
  }
}

function receiptToKeep(place, code) {
  const address = element("b", {}, location.origin + location.pathname);
  const what = receipt === code ? ["Your code is your receipt as well."] : ["Your receipt: ", toCopy(receipt)];
  const how = "With it you can withdraw what you did here later, too, at this address: ";
  place.replaceChildren(element("p", {}, ...what), element("p", {}, how, address));
}

export function ended({ status, completion: way, debrief }) {
  last = { completion: way, debrief };
  abandon();
  use(null);
  progress({});
  tell("");
  const section = byId("ended");
  section.querySelector(".sentence").textContent = SAID[status];
  wayOut(section.querySelector(".way-out"), way);
  const place = section.querySelector(".receipt-to-keep");
  receiptToKeep(place, way?.code);
  place.hidden = byId("receipt").hidden = status === "erased"; // it is good for nothing any more
  // The study's own text, turned into HTML by the server, which lets no markup through.
  section.querySelector(".debrief").innerHTML = debrief;
  show("ended");
}

export function declined({ completion: way }) {
  byId("declined").querySelector(".way-out").replaceChildren(...(way ? [goBack(way)] : []));
  show("declined");
}

async function stop(scope) {
  const found = await post("stop", { scope });
  ended({ status: STATUS[scope] ?? "stale", ...found });
}

async function withdraw(given, scope) {
  if (given === receipt && isIn()) return stop(scope);
  await post("withdraw", { receipt: given, scope });
  // What was shown on the last page stays: a code is needed whatever becomes of the data.
  if (given === receipt && isOver()) ended({ ...last, status: STATUS[scope] });
}

function asked(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => done(dialog.returnValue);
  });
}

async function askToStop() {
  if ((await asked(byId("stopping"))) !== "stop") return;
  const scope = byId("stopping").querySelector("input:checked").value || null;
  try {
    await stop(scope);
  } catch (error) {
    await untilAgain("problem", error.message);
    location.reload(); // the server says where they are
  }
}

async function askToWithdraw(event) {
  event.preventDefault();
  const form = event.target;
  const state = form.querySelector(".state");
  const scope = form.elements.scope.value;
  const given = form.elements.receipt.value.trim();
  if (!given) {
    state.textContent = "Please give your receipt.";
    form.elements.receipt.focus();
    return;
  }
  state.textContent = "";
  if (scope === "erase" && (await asked(byId("erasing"))) !== "erase") return;
  try {
    state.textContent = "One moment …";
    await withdraw(given, scope);
    state.textContent = SAID[STATUS[scope]];
  } catch (error) {
    state.textContent = error.message;
  }
}

export function openWaysOut() {
  byId("stop").onclick = askToStop;
  byId("paused").querySelector("[name=leave]").onclick = askToStop;
  const form = byId("withdraw").querySelector("form");
  form.noValidate = true;
  form.onsubmit = askToWithdraw;
}
