// The list of conversations: next to the page, or over it in a narrow window.

const narrow = matchMedia("(max-width: 52rem)");

export class Sidebar {
    constructor({ frame, list, page, button }) {
        Object.assign(this, { _frame: frame, _list: list, _page: page, _button: button });
        list.querySelector(".close").addEventListener("click", () => this.close());
        button.addEventListener("click", () => (this._isOpen ? this.close() : this.open()));
        // A click outside the open list closes it.
        frame.addEventListener("pointerdown", (event) => {
            if (this._isOpen && !list.contains(event.target)) {
                event.preventDefault();
                this.close();
            }
        });
        narrow.addEventListener("change", () => this._show(false));
        this._show(false);
    }

    open() {
        if (!narrow.matches || this._isOpen) return;
        this._show(true);
        this._list.querySelector("button, input").focus();
    }

    /** Returns whether it was open. */
    close() {
        const wasOpen = this._isOpen;
        this._show(false);
        if (wasOpen) this._button.focus();
        return wasOpen;
    }

    _show(isOpen) {
        this._isOpen = isOpen;
        this._frame.classList.toggle("listing", isOpen);
        this._list.inert = narrow.matches && !isOpen;
        this._page.inert = isOpen;
        this._button.setAttribute("aria-expanded", String(isOpen));
    }
}
