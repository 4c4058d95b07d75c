// Short notices at the edge of the page: what was done, and a button to undo it.

import { el, iconButton } from "./dom.js";
import { t } from "./language.js";

const SECONDS = 8;

export class Notices {
    constructor(node) {
        this._node = node;
    }

    /** Show a text for a while; `action`: { label, act }. */
    show(text, action = null) {
        const note = el("div", { class: "notice" }, el("span", {}, text));
        const close = () => note.remove();
        let timer = setTimeout(close, SECONDS * 1000);
        if (action) {
            note.append(el("button", { type: "button", class: "link", on: { click: () => (close(), action.act()) } },
                action.label));
        }
        note.append(iconButton("close", t("close"), close));
        // The notice stays while the pointer or the focus is on it.
        note.addEventListener("pointerenter", () => clearTimeout(timer));
        note.addEventListener("focusin", () => clearTimeout(timer));
        note.addEventListener("pointerleave", () => (timer = setTimeout(close, SECONDS * 1000)));
        this._node.append(note);
        while (this._node.children.length > 3) this._node.firstChild.remove();
    }
}
