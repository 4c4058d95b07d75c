// Staying at the end of a text that grows, until the reader scrolls up to read.

const NEAR = 40; // pixels from the end that count as the end

export class Follower {
    /** `onChange(isFollowing)` for a button that leads back. */
    constructor(scroller, onChange) {
        Object.assign(this, { _scroller: scroller, _onChange: onChange, isFollowing: true, _top: 0 });
        scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
        new ResizeObserver(() => this.keep()).observe(scroller);
    }

    /** Go to the end, if that is where the reader was. */
    keep() {
        if (this.isFollowing) this._scroller.scrollTop = this._scroller.scrollHeight;
    }

    /** Go to the end and stay there. */
    toEnd() {
        this._set(true);
        this.keep();
    }

    _scrolled() {
        const { scrollTop, scrollHeight, clientHeight } = this._scroller;
        // Text that has come since we went to the end moves the end away, not the reader: only upwards counts.
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
