// The settings dialog. Each change takes effect at once.

import { key } from "./client.js";
import { openDialog } from "./dialogs.js";
import { el } from "./dom.js";
import { LANGUAGES, t } from "./language.js";
import { CHOICES, NUMBERS } from "./settings.js";

export class SettingsView {
    /** `acts`: changed (a setting's name), exportAll, import, keyForgotten. */
    constructor(settings, acts) {
        Object.assign(this, { _settings: settings, _acts: acts });
    }

    open() {
        this._content = el("div", { class: "settings" });
        this._fill();
        this._dialog = openDialog(t("settings"), [this._content]);
    }

    _fill() {
        this._content.replaceChildren(this._answers(), this._appearance(), this._data(), this._keys());
        const title = this._dialog?.querySelector("#dialog-title");
        if (title) title.textContent = t("settings");
    }

    _set(name, value) {
        if (this._settings.set(name, value)) this._acts.changed(name);
    }

    _answers() {
        const reset = el("button", { type: "button", class: "link", on: { click: () => {
            this._settings.reset();
            this._fill();
        } } }, t("defaults"));
        const rows = Object.keys(NUMBERS).map((name) => this._number(name));
        const think = this._settings.thinks ? [this._choice("think", (value) => t(`think_${value}`))] : [];
        return el("section", {}, el("h3", {}, t("sampling")), ...think, ...rows, this._seed(), reset);
    }

    _number(name) {
        const { min, max, step, least = min, most = max } = NUMBERS[name];
        const value = String(this._settings.get(name));
        const field = el("input", { type: "number", id: `set-${name}`, min: least, max: most, step: "any", value,
            inputmode: "decimal", "aria-describedby": `hint-${name}` });
        const slider = el("input", { type: "range", min, max, step, value, "aria-label": t(name) });
        slider.addEventListener("input", () => {
            field.value = slider.value;
            this._set(name, slider.value);
        });
        field.addEventListener("change", () => {
            this._set(name, field.value);
            field.value = slider.value = String(this._settings.get(name));
        });
        return this._row(name, slider, field);
    }

    _seed() {
        const field = el("input", { type: "text", id: "set-seed", inputmode: "numeric", autocomplete: "off",
            "aria-describedby": "hint-seed" });
        field.value = String(this._settings.get("seed"));
        field.addEventListener("change", () => {
            this._set("seed", field.value.trim());
            field.value = String(this._settings.get("seed"));
        });
        return this._row("seed", field);
    }

    _row(name, ...fields) {
        const label = el("label", { for: `set-${name}` }, t(name));
        const hint = el("span", { class: "hint", id: `hint-${name}` }, t(`${name}Hint`));
        return el("div", { class: "row" }, label, hint, el("span", { class: "fields" }, ...fields));
    }

    _choice(name, label) {
        const chosen = this._settings.get(name);
        const option = (value) => el("option", { value, selected: value === chosen }, label(value));
        const select = el("select", { id: `set-${name}` }, ...CHOICES[name].map(option));
        select.addEventListener("change", () => {
            this._set(name, select.value);
            if (name === "language") {
                this._fill();
                this._content.querySelector("#set-language").focus();
            }
        });
        const hint = name === "think" && el("span", { class: "hint" }, t("thinkHint"));
        return el("div", { class: "row" }, el("label", { for: `set-${name}` }, t(name)), hint, select);
    }

    _appearance() {
        const language = (value) => (value === "auto" ? t("language_auto") : LANGUAGES[value].name);
        return el("section", {}, el("h3", {}, t("appearance")),
            this._choice("theme", (value) => t(`theme_${value}`)), this._choice("language", language));
    }

    _data() {
        const button = (label, act) => el("button", { type: "button", on: { click: act } }, label);
        const forget = key.get() ? button(t("keyForget"), () => {
            key.forget();
            this._acts.keyForgotten();
            this._fill();
        }) : null;
        return el("section", {}, el("h3", {}, t("data")), el("div", { class: "buttons" },
            button(t("exportAll"), this._acts.exportAll), button(t("import"), this._acts.import), forget));
    }

    _keys() {
        const rows = [["Enter", "send"], ["Shift+Enter", "line"], ["Esc", "stop"], ["Ctrl+Shift+O", "new"],
            ["Ctrl+K", "search"], ["/", "focus"], ["↑", "edit"]];
        return el("section", {}, el("h3", {}, t("shortcuts")), el("dl", {}, ...rows.flatMap(([keys, name]) => [
            el("dt", {}, ...keys.split("+").map((each) => el("kbd", {}, each))), el("dd", {}, t(`key_${name}`))])));
    }
}
