// One turn of a conversation: its text, thinking, versions and buttons.

import { copyButton, el, iconButton } from "./dom.js";
import { languageOf, number, t } from "./language.js";
import { MarkdownView } from "./render.js";
import { fit, isComposing } from "./typing.js";

export class MessageView {
    /**
     * `acts`: the actions of the buttons, each called with the turn: edit (and the text), regenerate, answer, goOn,
     * step (and by); and isBusy(), whether an answer is being generated.
     */
    constructor(turn, acts) {
        Object.assign(this, { turn, _acts: acts });
        this._body = el("div", { class: "body" });
        this._footer = el("div", { class: "foot" });
        const isUser = turn.role === "user";
        const who = isUser ? t("you") : turn.model || t("model");
        this.node = el("article", { class: `turn ${turn.role}`, "aria-label": who },
            el("h2", { class: "who" }, who), this._body, this._footer);
        if (!isUser) this._markdown = new MarkdownView();
        if (this._markdown) this._body.append(this._markdown.node);
    }

    /**
     * Show the turn's current content: `version` { index, count }, `isLast` of the path, `run` of its answer or null.
     * `isBusy`: an answer is being generated in this conversation, and nothing can be changed until it ends.
     */
    update({ version, isLast, run, isBusy }) {
        this.showText(run);
        const { turn } = this;
        const { index, count } = version;
        const key = [index, count, isLast, isBusy, Boolean(run), turn.finish, turn.tokens, turn.rate].join();
        if (key === this._key) return;
        this._key = key;
        this._isLast = isLast;
        this._footer.replaceChildren(...this._feet(version, run, isBusy));
    }

    /** Update only the text; called many times a second while it grows. */
    showText(run) {
        const { turn } = this;
        if (turn.thought || this._thought) this._showThought(run);
        if (this._editor) return;
        if (turn.role === "user") {
            if (this._body.textContent !== turn.text) this._body.textContent = turn.text;
        } else if (this._shown !== turn.text || this._isOpen !== Boolean(run)) {
            this._markdown.update(turn.text, Boolean(run));
            this._shown = turn.text;
            this._isOpen = Boolean(run);
        }
        this.node.classList.toggle("growing", Boolean(run));
        this.node.classList.toggle("waits", Boolean(run) && !turn.text && !run.isThinking);
        if (!this._hasLanguage && turn.text.length > 8) this._setLanguage(turn.text);
    }

    /** Focus a button, by the name of its action. */
    focus(name) {
        (this._footer.querySelector(`[data-act="${name}"]:not([disabled])`)
            ?? this._footer.querySelector("button:not([disabled])"))?.focus();
    }

    /** Edit the text in place. */
    edit() {
        if (this._editor) return;
        const area = el("textarea", { "aria-label": t("editMessage"), rows: "1", on: {
            input: () => fit(area), keydown: (event) => this._editKey(event, area) } });
        area.value = this.turn.text;
        const isUser = this.turn.role === "user";
        this._editor = el("div", { class: "editor" }, area, el("div", { class: "buttons" },
            el("button", { type: "button", on: { click: () => this._endEdit() } }, t("cancel")),
            el("button", { type: "button", class: "main", on: { click: () => this._endEdit(area.value) } },
                t(isUser ? "sendEdit" : "save"))));
        this._body.hidden = this._footer.hidden = true;
        this._body.after(this._editor);
        fit(area);
        area.focus();
    }

    _editKey(event, area) {
        if (isComposing(event)) return;
        if (event.key === "Escape") {
            event.stopPropagation();
            this._endEdit();
        } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            this._endEdit(area.value);
        }
    }

    /** End editing; without a text, the old one stays. */
    _endEdit(text) {
        const isNew = text !== undefined && text.trim() && text !== this.turn.text;
        if (isNew && this._acts.isBusy()) return; // the edit stays in the field until the answer is complete
        this._editor.remove();
        this._editor = null;
        this._body.hidden = this._footer.hidden = false;
        this.focus("edit");
        if (isNew) this._acts.edit(this.turn, text);
    }

    _setLanguage(text) {
        const tag = languageOf(text);
        if (tag) this._body.lang = tag;
        this._hasLanguage = true;
    }

    _showThought(run) {
        if (!this._thought) {
            this._summary = el("summary");
            this._thoughts = new MarkdownView();
            this._thought = el("details", { class: "thought" }, this._summary, this._thoughts.node);
            this._body.before(this._thought);
        }
        const isThinking = Boolean(run?.isThinking);
        const { seconds } = run ?? this.turn;
        const text = isThinking ? t("thinking", { n: Math.floor(seconds) })
            : seconds ? t("thought", { n: number(seconds, seconds < 10 ? 1 : 0) }) : t("thoughtOnly");
        if (this._summary.textContent !== text) this._summary.textContent = text;
        this._thought.classList.toggle("now", isThinking);
        if (this._shownThought !== this.turn.thought || this._isThinking !== isThinking) {
            this._thoughts.update(this.turn.thought, isThinking);
            Object.assign(this, { _shownThought: this.turn.thought, _isThinking: isThinking });
        }
    }

    _feet(version, run, isBusy) {
        if (run) return [];
        const { turn } = this;
        const button = (name, picture, label, act) => iconButton(picture, label, act, { "data-act": name });
        const isAnswer = turn.role === "assistant";
        const changes = isBusy ? [] : [
            button("edit", "edit", t("edit"), () => this.edit()),
            isAnswer && button("regenerate", "again", t("regenerate"), () => this._acts.regenerate(turn)),
            isAnswer && this._isLast && button("goOn", "onward", t("continue"), () => this._acts.goOn(turn)),
            !isAnswer && this._isLast && button("regenerate", "again", t("answerNow"), () => this._acts.answer(turn)),
        ];
        return [
            version.count > 1 && this._versions(version, button, isBusy),
            copyButton(t("copy"), t("copied"), () => turn.text),
            ...changes,
            isAnswer && el("span", { class: "figures" }, this._figures()),
        ].filter(Boolean);
    }

    _versions({ index, count }, button, isBusy) {
        const earlier = button("earlier", "left", t("earlier"), () => this._acts.step(this.turn, -1));
        const later = button("later", "right", t("later"), () => this._acts.step(this.turn, 1));
        earlier.disabled = isBusy || index === 0;
        later.disabled = isBusy || index === count - 1;
        const label = t("version", { i: index + 1, n: count });
        return el("span", { class: "versions", role: "group", "aria-label": label }, earlier,
            el("span", { "aria-hidden": "true" }, `${index + 1}/${count}`), later);
    }

    /** Token count and speed, and how the answer ended, if it did not end by itself. */
    _figures() {
        const { turn } = this;
        const ends = { length: t("cutShort"), stopped: t("stopped"), broken: t("errorCut") };
        const prompt = turn.cached ? t("promptCached", { n: number(turn.prompt), cached: number(turn.cached) })
            : turn.prompt && t("prompt", { n: number(turn.prompt) });
        const tokens = turn.tokens && t(turn.isAbout ? "about" : "tokens", { n: number(turn.tokens) });
        const rate = turn.rate && t("rate", { n: number(turn.rate, turn.rate < 10 ? 1 : 0) });
        return [ends[turn.finish], tokens, rate, prompt].filter(Boolean).join(" · ");
    }
}
