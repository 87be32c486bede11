// Goes through the report as a reader does: opens every part of the menu, clicks every result and
// waits until its picture or page is shown. What was seen ends as JSON in an element of its own.
(() => {
  const seen = { results: [], errors: [] };
  const loaded = new WeakSet();
  const complain = (...words) => seen.errors.push(words.join(" "));
  console.error = complain;
  addEventListener("unhandledrejection", (event) => complain(event.reason));
  addEventListener("error", (event) => complain(event.message ?? event.target.outerHTML.slice(0, 200)), true);
  document.addEventListener("load", (event) => loaded.add(event.target), true);

  const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
  const all = (selector) => [...document.querySelectorAll(`#app ${selector}`)];

  async function click(text) {
    const link = all("a").find((candidate) => candidate.textContent.trim() === text);
    if (link === undefined) throw new Error(`there is nothing to click called ${text}`);
    link.click();
    await pause();
  }

  async function look(row) {
    all("tbody tr")[row].querySelector("a").click();
    await pause();
    const { content, resultPath } = app.state;
    const [shown] = all(content === "img" ? ".grow img" : ".grow iframe");
    for (let i = 0; i < 100 && !loaded.has(shown); i++) await pause();
    if (!loaded.has(shown)) throw new Error(`${resultPath} is not shown`);
    const { width, height } = shown.getBoundingClientRect();
    seen.results.push({ path: resultPath, tag: shown.tagName, src: shown.src, width, height });
  }

  async function lookAtAll() {
    for (let row = 0; row < all("tbody tr").length; row++) await look(row);
  }

  // The first screen is the description, with a link to each category.
  async function follow() {
    if (all(".prose .system-message").length) complain("the description is not valid reStructuredText");
    for (const category of Object.keys(categories)) {
      app.setView({ navbarMode: "menu" });
      await pause();
      const [link] = all(".prose a").filter((candidate) => candidate.textContent === category);
      if (link === undefined) throw new Error(`the description has no link to ${category}`);
      link.click();
      await pause();
      if (app.state.category !== category) throw new Error(`the link to ${category} leads elsewhere`);
    }
  }

  async function read() {
    while (app === undefined) await pause();
    await follow();
    for (const text of ["Workflow", "Statistics", "About"]) {
      app.setView({ navbarMode: "menu" });
      await pause();
      await click(text);
    }
    for (const [category, subcategories] of Object.entries(categories)) {
      for (const subcategory of Object.keys(subcategories)) {
        app.setView({ navbarMode: "menu" });
        await pause();
        await click(category);
        if (Object.keys(subcategories).length > 1) await click(subcategory);
        await lookAtAll();
        // Two results that differ in one label stand in one row, with a switch.
        for (const other of all("input[type=radio]:not(:checked)").map((input) => input.id)) {
          document.getElementById(other).click();
          await pause();
          await lookAtAll();
        }
      }
    }
  }

  addEventListener("load", async () => {
    await read().catch((error) => complain(error));
    seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
    const element = document.createElement("pre");
    element.id = "seen";
    element.textContent = JSON.stringify(seen);
    document.body.append(element);
  });
})();
