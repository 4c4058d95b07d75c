// Keyboard shortcuts that work anywhere on the page.

import { isComposing } from "./typing.js";

/** `acts`: stop (returns whether there was something to stop), newChat, search, focus. */
export function listen(acts) {
    document.addEventListener("keydown", (event) => {
        if (isComposing(event) || event.defaultPrevented || document.querySelector("dialog[open]")) return;
        const isControl = event.ctrlKey || event.metaKey;
        const name = event.key.toLowerCase();
        if (event.key === "Escape" && !isControl) {
            if (!acts.stop()) return;
        } else if (isControl && event.shiftKey && name === "o") {
            acts.newChat();
        } else if (isControl && !event.shiftKey && name === "k") {
            acts.search();
        } else if (name === "/" && !isControl && !event.target.closest("input, textarea, select")) {
            acts.focus();
        } else {
            return;
        }
        event.preventDefault();
    });
}
