// The page's beginning.

import { App } from "./app.js";

new App().start();
