// A window over the page. The browser keeps the focus in it, closes it with Escape, and gives the focus back.

import { el, iconButton } from "./dom.js";
import { t } from "./language.js";

/** Open a dialog with a title and these nodes; it is removed when it closes. Returns its node. */
export function openDialog(title, nodes, onClose = () => {}) {
    const close = iconButton("close", t("close"), () => dialog.close());
    const dialog = el("dialog", { "aria-labelledby": "dialog-title", on: {
        close: () => {
            dialog.remove();
            onClose();
        },
        // A click outside: it hits the dialog element itself only there, since the content fills it.
        pointerdown: (event) => event.target === dialog && dialog.close(),
    } }, el("div", { class: "window" }, el("header", {}, el("h2", { id: "dialog-title" }, title), close), ...nodes));
    document.body.append(dialog);
    dialog.showModal();
    return dialog;
}
