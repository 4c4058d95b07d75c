// Keeps the end of a growing text in view, until the user scrolls up.

const NEAR = 40; // pixels from the end that count as the end

export class Follower {
    /** `onChange(isFollowing)` is for a button that scrolls to the end. */
    constructor(scroller, onChange) {
        Object.assign(this, { _scroller: scroller, _onChange: onChange, isFollowing: true, _top: 0 });
        scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
        new ResizeObserver(() => this.keep()).observe(scroller);
    }

    /** Scroll to the end, if the view was at the end. */
    keep() {
        if (this.isFollowing) this._scroller.scrollTop = this._scroller.scrollHeight;
    }

    /** Scroll to the end and stay there. */
    toEnd() {
        this._set(true);
        this.keep();
    }

    _scrolled() {
        const { scrollTop, scrollHeight, clientHeight } = this._scroller;
        // New text since the last scroll moves the end, not the view: only scrolling up counts.
        const isUp = scrollTop < this._top - 1;
        this._top = scrollTop;
        if (scrollHeight - scrollTop - clientHeight < NEAR) this._set(true);
        else if (isUp) this._set(false);
    }

    _set(isFollowing) {
        if (this.isFollowing === isFollowing) return;
        this.isFollowing = isFollowing;
        this._onChange(isFollowing);
    }
}
