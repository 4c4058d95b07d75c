// What stands in index.html without words: texts, labels and pictures are put in by name.

import { icon } from "./dom.js";
import { t } from "./language.js";

/** Give each its words in the page's language: data-t, data-label (read aloud), data-hint, and data-icon. */
export function labelPage() {
    for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
    for (const node of document.querySelectorAll("[data-label]")) {
        node.setAttribute("aria-label", t(node.dataset.label));
        if (node.tagName === "BUTTON") node.title = t(node.dataset.label);
    }
    for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
    for (const node of document.querySelectorAll("[data-icon]")) node.replaceChildren(icon(node.dataset.icon));
}
