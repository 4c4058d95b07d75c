// The form that asks for the server's API key.

import { key } from "./client.js";
import { openDialog } from "./dialogs.js";
import { el } from "./dom.js";
import { t } from "./language.js";

let isOpen = false;

/** Ask for a key; `onKey()` is called when there is one. `said`: the server's message about the last key. */
export function askForKey(said, onKey) {
    if (isOpen) return;
    isOpen = true;
    const field = el("input", { type: "password", id: "key-field", autocomplete: "off", required: true,
        spellcheck: "false" });
    const isKept = el("input", { type: "checkbox", id: "key-keep" });
    const form = el("form", { class: "key", on: { submit: (event) => {
        event.preventDefault();
        if (!field.value.trim()) return;
        key.set(field.value.trim(), isKept.checked);
        dialog.close();
        onKey();
    } } },
    key.get() ? el("p", { class: "wrong" }, t("keyWrong")) : null,
    said ? el("p", { class: "hint" }, said) : null,
    el("label", { for: "key-field" }, t("keyLabel")), field,
    el("label", { class: "check" }, isKept, t("keyKeep")),
    el("div", { class: "buttons" }, el("button", { type: "submit", class: "main" }, t("keyUse"))));
    const dialog = openDialog(t("keyTitle"), [form], () => (isOpen = false));
    field.focus();
}
