// Turn a GLB under the pointer: three.js reads and draws it (THREE and its GLTFLoader stand before this script).
(() => {
  const FOV = 34, START = { azimuth: 0.6, elevation: 0.3, zoom: 1 };

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0)).buffer;
  }

  const read = (bytes) => new Promise((done, failed) => new THREE.GLTFLoader().parse(bytes, "", done, failed));

  // Colours as they are in the file, without light; or the bare shape, one light from the viewer's upper right.
  function dress(asset) {
    const dresses = new Map();
    asset.traverse((part) => {
      if (!part.isMesh) return;
      const painted = new THREE.MeshBasicMaterial({ map: part.material.map, color: part.material.color });
      const clay = new THREE.MeshLambertMaterial({ color: 0xc7c0b6, flatShading: true });
      painted.side = clay.side = THREE.DoubleSide;
      part.material = painted;
      dresses.set(part, { painted, clay });
    });
    if (!dresses.size) throw new Error("it holds no mesh");
    return (bare) => dresses.forEach((worn, part) => { part.material = bare ? worn.clay : worn.painted; });
  }

  function stage(canvas, asset) {
    const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
    renderer.outputEncoding = THREE.sRGBEncoding;
    const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 1000);
    const lamp = new THREE.DirectionalLight(0xffffff, 0.75);
    lamp.position.set(0.3, 0.5, 0.8);
    camera.add(lamp, lamp.target);
    scene.add(asset, camera, new THREE.AmbientLight(0xffffff, 0.3));
    const ball = new THREE.Box3().setFromObject(asset).getBoundingSphere(new THREE.Sphere());
    return (eye) => {
      const side = Math.max(1, canvas.clientWidth), distance = 1.08 * ball.radius / Math.sin(FOV * Math.PI / 360);
      renderer.setPixelRatio(window.devicePixelRatio || 1);
      renderer.setSize(side, side, false);
      // glTF: y up, the front along +z; azimuth 0 sees it
      camera.position.setFromSphericalCoords(distance * eye.zoom, Math.PI / 2 - eye.elevation, eye.azimuth).add(ball.center);
      camera.near = distance / 100; camera.far = distance * 4;
      camera.lookAt(ball.center); camera.updateProjectionMatrix();
      renderer.render(scene, camera);
    };
  }

  async function show(box) {
    const canvas = box.querySelector("canvas"), bare = box.querySelector("input");
    const asset = (await read(bytesOf(box.querySelector("script").textContent))).scene;
    const wear = dress(asset), look = stage(canvas, asset), eye = { ...START };
    let turning = !matchMedia("(prefers-reduced-motion: reduce)").matches, held = null, before = null;
    const draw = () => look(eye);
    const turn = (right, up) => {
      eye.azimuth += right; eye.elevation = Math.max(-1.5, Math.min(1.5, eye.elevation + up)); draw();
    };
    const tick = (now) => {
      if (!turning) return;
      turn(before === null ? 0 : Math.min(now - before, 100) * 0.0004, 0);
      before = now; requestAnimationFrame(tick);
    };
    canvas.addEventListener("pointerdown", (event) => {
      turning = false; held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      turn((held[0] - event.clientX) * 0.01, (event.clientY - held[1]) * 0.01);
      held = [event.clientX, event.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // the page scrolls until the asset has been clicked
      event.preventDefault(); eye.zoom = Math.max(0.3, Math.min(3, eye.zoom * Math.exp(event.deltaY * 0.001))); draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
      if (!step) return;
      event.preventDefault(); turning = false; turn(...step);
    });
    canvas.addEventListener("dblclick", () => { Object.assign(eye, START); draw(); });
    bare.addEventListener("change", () => { wear(bare.checked); draw(); });
    window.addEventListener("resize", draw);
    draw(); if (turning) requestAnimationFrame(tick);
    box.dataset.state = "shown";
  }

  for (const box of document.querySelectorAll(".asset-viewer:not([data-state])")) {
    box.dataset.state = "loading";
    show(box).catch((error) => {
      box.dataset.state = "failed";
      box.querySelector(".asset-note").textContent = `The asset cannot be shown here: ${error.message}.`;
    });
  }
})();
