/** Puts the page together. */

import { call } from "./api.js";
import { AskPanel } from "./ask.js";
import { ChatPanel } from "./chat.js";
import { DocumentPanel } from "./document.js";
import { offerToForget } from "./key.js";
import { LibraryPanel } from "./library.js";
import { ModelPanel } from "./model.js";
import { SegmentsPanel } from "./segments.js";
import { Session } from "./session.js";
import { SurprisePanel } from "./surprise.js";
import { showError } from "./notice.js";

const part = (id) => document.getElementById(id);

const LOADING_MILLISECONDS = 1000; // between two looks whether the model is there

async function introduce(session) {
  const place = part("model");
  try {
    session.setModel(await call("/info"));
  } catch (error) {
    if (error.code === "not_ready") {
      place.textContent = "The model is being loaded…";
      setTimeout(introduce, LOADING_MILLISECONDS, session);
      return;
    }
    place.replaceChildren();
    showError(place.parentElement, error, () => introduce(session));
  }
}

const session = new Session();
new ModelPanel(part("model"), part("reading"), session);
new DocumentPanel(part("document"), session);
new SegmentsPanel(part("document").querySelector(".made-of"), session);
new AskPanel(part("ask"), session);
new SurprisePanel(part("surprise"), session);
new LibraryPanel(part("library"), session, part("confirm"));
new ChatPanel(part("chat"), session);
introduce(session);
offerToForget(part("forget"));
