// Which section of the page is shown, and what stands around it.

import { isIn } from "./api.js";
import { pressed } from "./form.js";

export const byId = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("main > section")];
const NO_WAY_BACK = ["finish", "ended"];
let shownNow = null;

export function show(id) {
  for (const section of sections) section.hidden = section.id !== id;
  if (shownNow !== id) {
    byId(id).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shownNow = id;
  byId("stop").hidden = !isIn() || NO_WAY_BACK.includes(id);
}

export function progress({ place, of }) {
  byId("progress").hidden = !place;
  if (!place) return;
  byId("progress").querySelector("progress").value = (place - 1) / of;
  byId("progress").querySelector("span").textContent = `${place} of ${of}`;
}

// Something to know beside what comes next.
export function tell(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// Shows why it can't go on, in the section `id`; resolves when it is to be tried again.
export function untilAgain(id, why) {
  byId(id).querySelector(".sentence").textContent = why;
  tell("");
  show(id);
  return pressed(byId(id).querySelector("[name=again]"));
}
