// A page opened from disk may not read another one: search then lists the pages without excerpts.
"use strict";

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
