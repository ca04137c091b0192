/**
 * What `bench_explorer.py` runs in a page. `wbBench[kind](root)` resolves to [overlay, volume], milliseconds from
 * the next key to the drawn pixels; a pixel that is read back waits for the drawing.
 */
window.wbBench ??= (() => {
  addEventListener("keydown", () => (window.wbPressed = performance.now()), true);
  const frame = () => new Promise(requestAnimationFrame);
  const rest = (ms) => new Promise((done) => setTimeout(done, ms));
  const since = () => performance.now() - window.wbPressed;
  const once = (target, name) => new Promise((done) => target.addEventListener(name, done, { once: true }));
  /** Wait for two frames of the screen, and for the GPU. */
  const drawn = async (plot) => {
    await frame();
    await frame();
    const { gl } = plot._fullLayout.scene._scene.glplot;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  };
  const moveTau = (root, value) => {
    const slider = root.querySelector(".wb-tau");
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  };

  return {
    explorer: (root) => {
      const canvas = root.querySelector(".wb-overlay");
      const plot = root.querySelector(".wb-volume");
      const overlay = once(root, "wb-overlay").then(() => (canvas.getContext("2d").getImageData(0, 0, 1, 1), since()));
      const volume = once(root, "wb-volume").then(() => drawn(plot)).then(since);
      return Promise.all([overlay, volume]);
    },

    old: (root) => {
      const plots = [...root.querySelectorAll(".js-plotly-plot")];
      const plot = plots.find((one) => one.data.some((trace) => trace.type === "mesh3d"));
      const overlay = once(root.querySelector("img"), "load").then(since);
      const volume = new Promise((done) => plot.once("plotly_afterplot", done)).then(() => drawn(plot)).then(since);
      return Promise.all([overlay, volume]);
    },

    plain: async (root) => {
      const [image, before] = [root.querySelector("img"), root.querySelector(".js-plotly-plot")];
      for (let seen = 0; ; ) {
        await frame();
        const fresh = root.querySelector("img");
        if (!seen && fresh && fresh !== image && fresh.complete) seen = since();
        const plot = root.querySelector(".js-plotly-plot");
        if (seen && plot && plot !== before && plot._fullLayout?.scene?._scene?.glplot) {
          await drawn(plot);
          return [seen, since()];
        }
      }
    },

    /** Milliseconds of `Plotly.restyle` between the first and the last surfaces of the explorer's steps, drawn: the floor. */
    restyle: async (root, count) => {
      const plot = root.querySelector(".wb-volume");
      const Plotly = await globalThis.workbenchPlotly;
      const names = ["x", "y", "z", "i", "j", "k", "intensity"];
      const kept = Number(root.querySelector(".wb-tau").value);
      const surfaces = [];
      for (const value of [kept + 4, kept]) {
        await rest(300);
        const done = once(root, "wb-volume");
        moveTau(root, value);
        await done;
        surfaces.push(Object.fromEntries(names.map((name) => [name, [plot.data[0][name]]])));
      }
      const times = [];
      for (let n = 0; n < count; n++) {
        await rest(180);
        const begun = performance.now();
        await Plotly.restyle(plot, surfaces[n % 2], [0]);
        await drawn(plot);
        times.push(performance.now() - begun);
      }
      await Plotly.restyle(plot, surfaces[1], [0]);
      return times;
    },

    /** 200 values of τ at once: milliseconds until the last is on the overlay and in the volume, and what is kept. */
    burst: async (root) => {
      await rest(500);
      const plot = root.querySelector(".wb-volume");
      const begun = performance.now();
      const [overlay, volume] = [once(root, "wb-overlay"), once(root, "wb-volume")];
      for (let n = 1; n <= 200; n++) moveTau(root, n);
      const last = root.querySelector(".wb-tau").value;
      const settled = async () => {
        while (root.querySelector(".wb-tau").value !== last || root.explorer.queued || root.explorer.stale) await frame();
      };
      await overlay;
      await settled();
      const toOverlay = performance.now() - begun;
      await volume;
      while (root.explorer.panels[0].solid.given.tube !== root.explorer.panels[0].tube) await once(root, "wb-volume");
      await drawn(plot);
      return [toOverlay, performance.now() - begun, root.querySelector(".wb-kept").textContent];
    },
  };
})();
