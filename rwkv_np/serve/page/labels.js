// Fills index.html, which has no texts of its own: texts, labels and icons are inserted by name.

import { icon } from "./dom.js";
import { t } from "./language.js";

/** Insert the texts in the page's language: data-t, data-label (for screen readers), data-hint, and data-icon. */
export function labelPage() {
    for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
    for (const node of document.querySelectorAll("[data-label]")) {
        node.setAttribute("aria-label", t(node.dataset.label));
        if (node.tagName === "BUTTON") node.title = t(node.dataset.label);
    }
    for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
    for (const node of document.querySelectorAll("[data-icon]")) node.replaceChildren(icon(node.dataset.icon));
}
