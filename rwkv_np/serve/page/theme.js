// Light or dark: as the system, unless the user has chosen. early.js does the same before anything is drawn.

import { icon } from "./dom.js";
import { t } from "./language.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

/** The switch between light and dark. */
export class ThemeSwitch {
    constructor(button, settings) {
        Object.assign(this, { _button: button, _settings: settings });
        button.addEventListener("click", () => {
            settings.set("theme", this._isDark ? "light" : "dark");
            this.show();
        });
        dark.addEventListener("change", () => this.show());
    }

    /** Apply the setting to the page, and label the button with its action. */
    show() {
        const choice = this._settings.get("theme");
        if (choice === "auto") delete document.documentElement.dataset.theme;
        else document.documentElement.dataset.theme = choice;
        const label = t(this._isDark ? "toLight" : "toDark");
        this._button.replaceChildren(icon(this._isDark ? "sun" : "moon"));
        this._button.title = label;
        this._button.setAttribute("aria-label", label);
    }

    get _isDark() {
        const choice = this._settings.get("theme");
        return choice === "auto" ? dark.matches : choice === "dark";
    }
}
