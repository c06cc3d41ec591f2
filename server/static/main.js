/** Puts the page together. */

import { call } from "./api.js";
import { AskPanel } from "./ask.js";
import { ChatPanel } from "./chat.js";
import { DocumentPanel } from "./document.js";
import { LibraryPanel } from "./library.js";
import { Session } from "./session.js";
import { SurprisePanel } from "./surprise.js";
import { count } from "./format.js";
import { showError } from "./notice.js";

const part = (id) => document.getElementById(id);

async function introduce(session) {
  const place = part("model");
  try {
    const { data } = await call("/v1/models");
    session.setModel(data[0]);
    const { name, segment_length: segment, summary_length: vectors, max_positions: window, device } = session.model;
    const shape = `${count(segment)} tokens → ${vectors} vectors a segment`;
    place.textContent = `${name} on ${device} · ${shape} · window of ${count(window)} positions`;
  } catch (error) {
    place.replaceChildren();
    showError(place.parentElement, error, () => introduce(session));
  }
}

const session = new Session();
new DocumentPanel(part("document"), session);
new AskPanel(part("ask"), session);
new SurprisePanel(part("surprise"), session);
new LibraryPanel(part("library"), session, part("confirm"));
new ChatPanel(part("chat"), session);
introduce(session);
