// A conversation on the page: its turns, its system text, and an error at its end.

import { el } from "./dom.js";
import { t } from "./language.js";
import { MessageView } from "./message_view.js";
import { fit } from "./typing.js";

export class ThreadView {
    /** `acts`: those of MessageView, and system (its new text), suggest (a text). `follower` keeps the end in view. */
    constructor(node, follower, acts) {
        Object.assign(this, { _node: node, _follower: follower, _acts: acts });
        this._views = [];
        this._frame = null;
    }

    /** Show the current conversation; `run`: its running answer, or null. */
    show(conversation, run, welcome) {
        const isOther = this._conversation !== conversation;
        if (isOther) this._begin(conversation);
        this._run = run;
        this._welcome.hidden = !conversation.isEmpty;
        this._welcome.replaceChildren(...(conversation.isEmpty ? this._greeting(welcome) : []));
        this._showTurns(conversation.path());
        if (isOther) this._follower.toEnd();
        else this._follower.keep();
    }

    /** Render everything again, for example after a change of language. */
    forget() {
        this._conversation = null;
    }

    /** An answer has grown: draw it with the next frame, once. */
    grow() {
        if (this._frame !== null) return;
        const draw = () => {
            this._frame = null;
            const view = this._run && this._views.find((each) => each.turn === this._run.turn);
            view?.showText(this._run);
            this._follower.keep();
        };
        // A hidden tab draws no frames, and does not need fast updates.
        this._frame = document.hidden ? setTimeout(draw, 500) : requestAnimationFrame(draw);
    }

    /** Show an error: a title, a text, and { label, act } for the button. Null: no error. */
    showError(error) {
        this._error?.remove();
        this._error = error && el("div", { class: "error", role: "alert" }, el("strong", {}, error.title),
            el("p", {}, error.text), el("button", { type: "button", on: { click: error.act } }, error.label));
        if (error) this._node.append(this._error);
        this._follower.keep();
    }

    view(turn) {
        return this._views.find((each) => each.turn === turn);
    }

    _begin(conversation) {
        this._conversation = conversation;
        this._views = [];
        this._welcome = el("div", { class: "welcome" });
        this._turns = el("div", { class: "turns" });
        this._error = null;
        this._node.replaceChildren(this._system(conversation), this._welcome, this._turns);
    }

    _system(conversation) {
        const area = el("textarea", { rows: "2", id: "system-text", "aria-describedby": "system-hint", on: {
            input: () => fit(area), change: () => this._acts.system(area.value) } });
        area.value = conversation.data.system;
        const node = el("details", { class: "system", on: { toggle: () => fit(area) } },
            el("summary", {}, t("system")),
            el("label", { for: "system-text", class: "hint", id: "system-hint" }, t("systemHint")), area);
        node.open = Boolean(conversation.data.system);
        return node;
    }

    _greeting({ title, note, tries }) {
        const suggestion = (text) => el("button", { type: "button", class: "try",
            on: { click: () => this._acts.suggest(text) } }, text);
        return [el("h2", {}, title), el("p", {}, note), el("div", { class: "tries" }, ...tries.map(suggestion))];
    }

    /** Views of unchanged turns are not touched: they keep their focus, selection and open thinking. */
    _showTurns(path) {
        let same = 0;
        while (same < path.length && this._views[same]?.turn === path[same]) same += 1;
        for (const view of this._views.splice(same)) view.node.remove();
        for (const turn of path.slice(same)) {
            const view = new MessageView(turn, this._acts);
            this._views.push(view);
            this._turns.append(view.node);
        }
        this._views.forEach((view, i) => view.update({
            version: this._conversation.version(view.turn), isLast: i === path.length - 1,
            run: this._run?.turn === view.turn ? this._run : null, isBusy: Boolean(this._run),
        }));
    }
}
