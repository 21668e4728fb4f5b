// Search runs in a worker. Browsers refuse workers to pages that are opened as
// files; there a hidden frame takes the place of one. Material for MkDocs asks
// for a script of this file's name, and its search for a class of this name.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.inside = frame.contentWindow;
    const inner = this.inside.document;
    inner.open();
    inner.write("<body></body>");
    inner.close();
    this.inside.postMessage = (data) =>
      this.dispatchEvent(new MessageEvent("message", {data}));
    const script = inner.createElement("script");
    script.src = url;
    this.ready = new Promise((resolve) => { script.onload = resolve; });
    inner.body.append(script);
  }

  postMessage(data) {
    this.ready.then(() =>
      this.inside.dispatchEvent(new MessageEvent("message", {data})));
  }
};
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker;
}
