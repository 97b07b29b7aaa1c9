// Turn a GLB under the pointer: reads one textured mesh out of a binary glTF and draws it with WebGL 2, no library.
(() => {
  const VERTEX = `#version 300 es
    in vec3 position; in vec2 uv; uniform mat4 view; uniform mat4 lens; out vec2 at; out vec3 place;
    void main() { vec4 seen = view * vec4(position, 1.0); at = uv; place = seen.xyz; gl_Position = lens * seen; }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec2 at; in vec3 place; uniform sampler2D paint; uniform bool clay; out vec4 colour;
    void main() {
      vec3 normal = normalize(cross(dFdx(place), dFdy(place)));
      float light = 0.25 + 0.75 * max(dot(normal, normalize(vec3(0.3, 0.5, 0.8))), 0.0);
      colour = clay ? vec4(vec3(0.82, 0.80, 0.76) * light, 1.0) : vec4(texture(paint, at).rgb, 1.0);
    }`;
  const ARRAYS = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
  const WIDTHS = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };

  function bytesOf(base64) {
    const text = atob(base64.trim()), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // {positions, uvs, indices, picture: Blob} of the first primitive
  function parse(bytes) {
    const head = new DataView(bytes.buffer, bytes.byteOffset);
    if (head.getUint32(0, true) !== 0x46546c67) throw new Error("this is no GLB");
    let json = null, binary = null;
    for (let at = 12; at < bytes.length;) {
      const length = head.getUint32(at, true), kind = head.getUint32(at + 4, true);
      const chunk = bytes.subarray(at + 8, at + 8 + length);
      if (kind === 0x4e4f534a) json = JSON.parse(new TextDecoder().decode(chunk));
      if (kind === 0x004e4942) binary = chunk;
      at += 8 + length;
    }
    const slice = (number) => {
      const view = json.bufferViews[number], from = view.byteOffset || 0;
      return binary.slice(from, from + view.byteLength);
    };
    const read = (number) => {
      const accessor = json.accessors[number], Kind = ARRAYS[accessor.componentType];
      const part = slice(accessor.bufferView), from = accessor.byteOffset || 0;
      return new Kind(part.buffer, part.byteOffset + from, accessor.count * WIDTHS[accessor.type]);
    };
    const drawn = json.meshes[0].primitives[0], material = json.materials[drawn.material];
    const texture = json.textures[material.pbrMetallicRoughness.baseColorTexture.index];
    const image = json.images[texture.source];
    return {
      positions: read(drawn.attributes.POSITION), uvs: read(drawn.attributes.TEXCOORD_0),
      indices: Uint32Array.from(read(drawn.indices)),
      picture: new Blob([slice(image.bufferView)], { type: image.mimeType }),
    };
  }

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source); gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }

  function upload(gl, made, mesh, bitmap) {
    gl.bindVertexArray(gl.createVertexArray());
    for (const [name, values, width] of [["position", mesh.positions, 3], ["uv", mesh.uvs, 2]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const place = gl.getAttribLocation(made, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, width, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.indices, gl.STATIC_DRAW);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap); // glTF: v runs downwards, as rows do
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  }

  // glTF: y up, the front along +z; azimuth 0 sees it. Column-major.
  function viewMatrix(azimuth, elevation, distance, centre) {
    const ca = Math.cos(azimuth), sa = Math.sin(azimuth), ce = Math.cos(elevation), se = Math.sin(elevation);
    const right = [ca, 0, -sa], up = [-sa * se, ce, -ca * se], back = [sa * ce, se, ca * ce];
    const dot = (a) => a[0] * centre[0] + a[1] * centre[1] + a[2] * centre[2];
    return [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right), -dot(up), -dot(back) - distance, 1];
  }

  function lensMatrix(fovy, aspect, near, far) {
    const f = 1 / Math.tan(fovy / 2);
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1,
      0, 0, 2 * far * near / (near - far), 0];
  }

  function extent(positions) {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    positions.forEach((v, i) => { low[i % 3] = Math.min(low[i % 3], v); high[i % 3] = Math.max(high[i % 3], v); });
    const centre = low.map((v, i) => (v + high[i]) / 2);
    return { centre, radius: Math.max(1e-6, Math.hypot(...low.map((v, i) => (high[i] - v) / 2))) };
  }

  async function show(box) {
    const canvas = box.querySelector("canvas"), clay = box.querySelector("input");
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser offers no WebGL 2");
    const mesh = parse(bytesOf(box.querySelector("script").textContent));
    const made = program(gl), ball = extent(mesh.positions);
    upload(gl, made, mesh, await createImageBitmap(mesh.picture, { colorSpaceConversion: "none" }));
    const start = { azimuth: 0.6, elevation: 0.3, zoom: 1 }, eye = { ...start };
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let turning = !still, held = null, before = null;
    const draw = () => {
      const side = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
      if (canvas.width !== side) canvas.width = canvas.height = side;
      const fovy = 0.6, distance = 1.08 * ball.radius / Math.sin(fovy / 2) * eye.zoom;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.enable(gl.DEPTH_TEST); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.useProgram(made);
      const where = (name) => gl.getUniformLocation(made, name);
      gl.uniformMatrix4fv(where("view"), false, viewMatrix(eye.azimuth, eye.elevation, distance, ball.centre));
      gl.uniformMatrix4fv(where("lens"), false, lensMatrix(fovy, 1, distance / 100, distance * 3));
      gl.uniform1i(where("clay"), clay.checked ? 1 : 0);
      gl.drawElements(gl.TRIANGLES, mesh.indices.length, gl.UNSIGNED_INT, 0);
    };
    const tick = (now) => {
      if (!turning) return;
      eye.azimuth += before === null ? 0 : Math.min(now - before, 100) * 0.0004;
      before = now; draw(); requestAnimationFrame(tick);
    };
    canvas.addEventListener("pointerdown", (event) => {
      turning = false; held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      eye.azimuth -= (event.clientX - held[0]) * 0.01;
      eye.elevation = Math.max(-1.5, Math.min(1.5, eye.elevation + (event.clientY - held[1]) * 0.01));
      held = [event.clientX, event.clientY]; draw();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // the page scrolls until the asset has been clicked
      event.preventDefault(); eye.zoom = Math.max(0.3, Math.min(3, eye.zoom * Math.exp(event.deltaY * 0.001))); draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
      if (!step) return;
      event.preventDefault(); turning = false; eye.azimuth += step[0];
      eye.elevation = Math.max(-1.5, Math.min(1.5, eye.elevation + step[1])); draw();
    });
    canvas.addEventListener("dblclick", () => { Object.assign(eye, start); draw(); });
    clay.addEventListener("change", draw); window.addEventListener("resize", draw);
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
