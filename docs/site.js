// A table that is wider than the page scrolls; without a place in the tab order no keyboard could scroll it.
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) box.tabIndex = 0
})
