// The whole page: it connects the parts and knows which conversation is shown. The parts do not know each other.

import { key, readModel } from "./client.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { failure } from "./failure.js";
import { Follower } from "./follow.js";
import { askForKey } from "./key_view.js";
import { listen } from "./keyboard.js";
import { number, speak, t } from "./language.js";
import { labelPage } from "./labels.js";
import { Library } from "./library.js";
import { ListView } from "./list_view.js";
import { Notices } from "./notices.js";
import { Settings } from "./settings.js";
import { SettingsView } from "./settings_view.js";
import { Sidebar } from "./sidebar.js";
import { Talk } from "./talk.js";
import { ThemeSwitch } from "./theme.js";
import { ThreadView } from "./thread_view.js";
import { TransferView } from "./transfer_view.js";

const $ = (id) => document.getElementById(id);

export class App {
    constructor() {
        this.settings = new Settings();
        this.model = { id: "", template: "", thinks: false };
        this.notices = new Notices($("notices"));
        this.library = new Library({
            onChange: (id, made, take) => this._changedElsewhere(id, made, take),
            onFail: (error) => this.notices.show(t("saveFailed", { why: error?.message ?? String(error) })),
        });
        this.talk = new Talk({
            request: () => this._request(),
            onChange: (conversation) => this._changed(conversation),
            onPiece: (run) => this._grown(run),
            onFail: (conversation, turn, error) => this._failed(conversation, turn, error),
        });
        this.current = new Conversation();
        this._views();
    }

    async start() {
        this._speak();
        await this.library.open();
        this.open(this.library.get(location.hash.slice(1)) ?? new Conversation());
        if (!this.library.isLasting) this.notices.show(t("notKept"));
        await this._meet();
    }

    // --- what is shown

    /** Show a conversation. */
    open(conversation) {
        this.current = conversation;
        history.replaceState(null, "", conversation.isEmpty ? location.pathname : `#${conversation.id}`);
        this.thread.showError(null);
        this.composer.show(conversation.id);
        this.sidebar.close();
        this._showAll();
        if (matchMedia("(hover: hover)").matches) this.composer.focus();
    }

    newChat() {
        this.open(this.current.isEmpty ? this.current : new Conversation());
        this.composer.focus();
    }

    _showAll() {
        this._showThread();
        this._showList();
    }

    _showThread() {
        const tries = [t("try1"), t("try2"), t("try3")];
        const note = this.library.isLasting ? t("kept") : t("notKept");
        this.thread.show(this.current, this.talk.run(this.current), { title: t("welcome"), note, tries });
        $("title").textContent = this.current.title || t("untitled");
        document.title = this.current.title ? `${this.current.title} · rwkv-np` : "rwkv-np";
        this._showLine();
    }

    _showList() {
        const query = $("search").value;
        this.list.show(this.library.list(query), { current: this.current, isSearch: Boolean(query.trim()),
            isRunning: (each) => Boolean(this.talk.run(each)) });
    }

    /** Update the button and the status line under the field. */
    _showLine() {
        const run = this.talk.run(this.current);
        this.composer.update({ isRunning: Boolean(run), line: run ? this._lineOf(run) : this.model.id });
    }

    _lineOf(run) {
        if (run.waiting) return t("busy", { n: run.waiting });
        if (!run.pieces) return t("reading");
        const rate = run.rate ? t("rate", { n: number(run.rate, run.rate < 10 ? 1 : 0) }) : "";
        return [t("about", { n: number(run.pieces) }), rate].filter(Boolean).join(" · ");
    }

    // --- events

    _request() {
        return { fields: { model: this.model.id || undefined, ...this.settings.fields() }, model: this.model.id };
    }

    _changed(conversation) {
        this.library.save(conversation);
        const isRunning = Boolean(this.talk.run(conversation));
        if (conversation === this.current) {
            history.replaceState(null, "", `#${conversation.id}`);
            this.thread.showError(null);
            if (isRunning) this.follower.toEnd();
            this._showThread();
            $("status").textContent = t(isRunning ? "writing" : "finished");
        }
        this._showList();
        if (!isRunning && !this.model.id) this._meet(); // the server was not reachable at the start
    }

    _grown(run) {
        this.library.saveSoon(run.conversation);
        if (run.conversation !== this.current) return;
        this.thread.grow();
        // A line that changes with every token is unreadable, and each change costs a layout.
        const now = performance.now();
        if (!run.pieces || run.pieces === 1 || now - (this._lineAt ?? 0) > 250) {
            this._lineAt = now;
            this._showLine();
        }
    }

    _failed(conversation, turn, error) {
        const isCut = turn.role === "assistant";
        const act = () => (isCut ? this.talk.goOn(conversation, turn) : this.talk.answer(conversation, turn));
        if (error.kind === "key") askForKey(error.said, () => this._meet().then(act));
        if (error.status === 404) this._meet(); // the server has another model now
        if (conversation !== this.current) return;
        this.thread.showError({ ...failure(error, isCut), act });
        if (!error.kind) throw error; // a bug in the page: the console shows where
    }

    _changedElsewhere(id, made, take) {
        const old = this.library.get(id);
        if (old && this.talk.run(old)) return;
        take(made);
        if (this.current.id === id) this.open(made ?? new Conversation());
        else this._showList();
    }

    /** Ask the server for its model. */
    async _meet() {
        try {
            this.model = await readModel();
            Object.assign(this.settings, { template: this.model.template, thinks: this.model.thinks });
            this._showLine();
        } catch (error) {
            if (error.kind === "key") askForKey("", () => this._meet());
            else if (this.current.isEmpty && error.kind) {
                const act = () => (this.thread.showError(null), this._meet());
                this.thread.showError({ ...failure(error, false), act });
            }
        }
    }

    _speak() {
        document.documentElement.lang = speak(this.settings.get("language"));
        labelPage();
        this.themeSwitch.show();
    }

    _set(name) {
        if (name === "theme") this.themeSwitch.show();
        if (name !== "language") return;
        this._speak();
        this.thread.forget();
        this._showAll();
    }

    _rename(conversation, title) {
        if (title !== null && title.trim() !== conversation.title) {
            conversation.rename(title);
            this.library.save(conversation);
        }
        this._showAll();
    }

    _remove(conversation) {
        this.talk.stop(conversation);
        const title = conversation.title || t("untitled");
        this.library.remove(conversation);
        if (conversation === this.current) this.open(new Conversation());
        else this._showList();
        const undo = () => {
            this.library.save(conversation);
            this.open(conversation);
        };
        this.notices.show(t("removed", { title }), { label: t("undo"), act: undo });
    }

    // --- parts

    _views() {
        this.themeSwitch = new ThemeSwitch($("theme"), this.settings);
        this.follower = new Follower($("scroller"), (isFollowing) => ($("latest").hidden = isFollowing));
        this.sidebar = new Sidebar({ frame: $("frame"), list: $("sidebar"), page: $("page"), button: $("open-list") });
        this.thread = new ThreadView($("thread"), this.follower, this._threadActs());
        this.transfer = new TransferView(this.library, this.notices, (made) => this.open(made[0]));
        this.list = new ListView($("list"), {
            open: (conversation) => this.open(conversation),
            rename: (conversation, title) => this._rename(conversation, title),
            remove: (conversation) => this._remove(conversation),
            exportJson: (conversation) => this.transfer.exportJson(conversation),
            exportMarkdown: (conversation) => this.transfer.exportMarkdown(conversation),
        });
        this.composer = new Composer({ area: $("input"), button: $("send"), line: $("line") }, {
            send: (text) => this.talk.say(this.current, text),
            stop: () => this.talk.stop(this.current),
            editLast: () => this._editLast(),
        });
        this.settingsView = new SettingsView(this.settings, {
            changed: (name) => this._set(name),
            exportAll: () => this.transfer.exportAll(),
            import: () => this.transfer.import(),
            keyForgotten: () => this.notices.show(t("keyForgotten")),
        });
        this._listeners();
    }

    _threadActs() {
        return {
            isBusy: () => Boolean(this.talk.run(this.current)),
            edit: (turn, text) => {
                const made = this.talk.edit(this.current, turn, text);
                if (made) this.thread.view(made)?.focus("edit");
            },
            regenerate: (turn) => this.talk.answer(this.current, this.current.turn(turn.parent)),
            answer: (turn) => this.talk.answer(this.current, turn),
            goOn: (turn) => this.talk.goOn(this.current, turn),
            step: (turn, by) => this._step(turn, by),
            system: (text) => {
                this.current.data.system = text;
                if (!this.current.isEmpty) this.library.save(this.current);
            },
            suggest: (text) => {
                this.composer.write(text);
                this.composer.focus();
            },
        };
    }

    _step(turn, by) {
        if (this.talk.run(this.current)) return;
        const other = this.current.step(turn, by);
        this.follower.isFollowing = false; // do not scroll: stay where the version was chosen
        this.library.save(this.current);
        this._showThread();
        this.thread.view(other)?.focus(by < 0 ? "earlier" : "later");
    }

    _editLast() {
        const last = this.current.path().findLast((turn) => turn.role === "user");
        if (last && !this.talk.run(this.current)) this.thread.view(last)?.edit();
    }

    _listeners() {
        $("new").addEventListener("click", () => this.newChat());
        $("search").addEventListener("input", () => this._showList());
        $("settings").addEventListener("click", () => this.settingsView.open());
        $("latest").addEventListener("click", () => this.follower.toEnd());
        window.addEventListener("pagehide", () => this.library.flush());
        document.addEventListener("visibilitychange", () => document.hidden && this.library.flush());
        window.addEventListener("beforeunload", (event) => this.talk.isBusy && event.preventDefault());
        listen({
            stop: () => {
                if (this.sidebar.close()) return true;
                const isRunning = Boolean(this.talk.run(this.current));
                this.talk.stop(this.current);
                return isRunning;
            },
            newChat: () => this.newChat(),
            search: () => {
                this.sidebar.open();
                $("search").select();
            },
            focus: () => this.composer.focus(),
        });
    }
}
