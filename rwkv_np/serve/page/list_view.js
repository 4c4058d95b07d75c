// The list of conversations: search, and a menu for each.

import { el, icon } from "./dom.js";
import { t } from "./language.js";
import { showMenu } from "./menu.js";
import { isComposing } from "./typing.js";

export class ListView {
    /** `acts`: open, rename (and the title), remove, exportJson, exportMarkdown, each called with a conversation. */
    constructor(node, acts) {
        Object.assign(this, { _node: node, _acts: acts });
    }

    /** Show these; `current` is the one on the page; `isRunning(conversation)`: an answer is being generated. */
    show(conversations, { current, isRunning, isSearch }) {
        if (this._renaming) return;
        const focused = this._node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
        const rows = conversations.map((each) => this._row(each, each === current, isRunning(each)));
        const empty = el("li", { class: "empty" }, t(isSearch ? "nothingFound" : "noConversations"));
        this._node.replaceChildren(...(rows.length ? rows : [empty]));
        if (focused) this._node.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    }

    _row(conversation, isCurrent, isRunning) {
        const title = conversation.title || t("untitled");
        const more = el("button", { type: "button", class: "icon more", "aria-label": t("more", { title }),
            "aria-haspopup": "menu", "aria-expanded": "false", "data-key": `more ${conversation.id}`,
            on: { click: () => showMenu(more, this._items(conversation)) } }, icon("more"));
        const open = el("button", { type: "button", class: "title", title, "data-key": `open ${conversation.id}`,
            "aria-current": isCurrent ? "true" : null, on: { click: () => this._acts.open(conversation) } }, title);
        return el("li", { class: isRunning ? "running" : "", "data-id": conversation.id }, open, more);
    }

    _items(conversation) {
        const act = (name) => () => this._acts[name](conversation);
        return [
            { label: t("rename"), act: () => this._rename(conversation) },
            { label: t("exportJson"), act: act("exportJson") },
            { label: t("exportMarkdown"), act: act("exportMarkdown") },
            { label: t("remove"), act: act("remove") },
        ];
    }

    _rename(conversation) {
        const row = this._node.querySelector(`[data-id="${CSS.escape(conversation.id)}"]`);
        if (!row) return;
        const field = el("input", { class: "rename", "aria-label": t("rename"), maxlength: "200" });
        field.value = conversation.title;
        let isDone = false;
        const end = (isKept) => {
            if (isDone) return;
            isDone = true;
            this._renaming = false;
            this._acts.rename(conversation, isKept ? field.value : null);
            this._node.querySelector(`[data-key="${CSS.escape(`open ${conversation.id}`)}"]`)?.focus();
        };
        field.addEventListener("keydown", (event) => {
            if (isComposing(event)) return;
            if (event.key === "Enter" || event.key === "Escape") {
                event.preventDefault();
                event.stopPropagation();
                end(event.key === "Enter");
            }
        });
        field.addEventListener("blur", () => end(true));
        this._renaming = true;
        row.replaceChildren(field);
        field.select();
        field.focus();
    }
}
