// A menu under a button, with arrow keys; Escape or a click elsewhere closes it.

import { el } from "./dom.js";

let open = null;

/** Show { label, act } items as a menu at `button`; a second click on the button closes it. */
export function showMenu(button, items) {
    const again = open?.button === button;
    open?.close(false);
    if (!again) open = new Menu(button, items);
}

class Menu {
    constructor(button, items) {
        this.button = button;
        const item = ({ label, act }) => el("button", { type: "button", role: "menuitem", tabindex: "-1",
            on: { click: () => (this.close(true), act()) } }, label);
        this._node = el("div", { class: "menu", role: "menu", on: { keydown: (event) => this._key(event) } },
            ...items.map(item));
        this._elsewhere = (event) => {
            if (!this._node.contains(event.target) && !button.contains(event.target)) this.close(false);
        };
        this._leave = () => this.close(false);
        document.body.append(this._node);
        this._place();
        button.setAttribute("aria-expanded", "true");
        document.addEventListener("pointerdown", this._elsewhere, true);
        window.addEventListener("resize", this._leave);
        this._node.firstChild.focus();
    }

    /** Close it; `isBack`: the button gets the focus again. */
    close(isBack) {
        open = null;
        this._node.remove();
        this.button.setAttribute("aria-expanded", "false");
        document.removeEventListener("pointerdown", this._elsewhere, true);
        window.removeEventListener("resize", this._leave);
        if (isBack) this.button.focus();
    }

    _place() {
        const at = this.button.getBoundingClientRect();
        const { offsetWidth: width, offsetHeight: height } = this._node;
        const left = Math.max(8, Math.min(at.right - width, innerWidth - width - 8));
        const below = at.bottom + 4;
        this._node.style.left = `${left}px`;
        this._node.style.top = `${below + height > innerHeight - 8 ? Math.max(8, at.top - height - 4) : below}px`;
    }

    _key(event) {
        const items = [...this._node.children];
        const at = items.indexOf(document.activeElement);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
        if (event.key === "Escape" || event.key === "Tab") this.close(true);
        else if (to !== undefined) items[(to + items.length) % items.length].focus();
        else return;
        event.preventDefault();
        event.stopPropagation();
    }
}
