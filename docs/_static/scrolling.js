// Tables and code that scroll can be reached by keyboard; those that fit are no stop on the way.
const observer = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const region of document.querySelectorAll(".table-wrapper, .highlight pre")) observer.observe(region);
