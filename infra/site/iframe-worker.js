// Browsers start no Worker for a page that was opened from a disk. There a hidden frame runs the search's script instead.
// The theme's search looks for a class of this name, and would else load one from another host.
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve) => { frame.ready = resolve; });
      frame.receive = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      document.body.appendChild(frame);
      this.inside = frame.contentWindow;
      const written = this.inside.document;
      written.open();
      written.write(`<!doctype html><body><script>
        postMessage = (data) => frameElement.receive(data);
        importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((resolve) => {
          const script = document.createElement("script");
          script.async = false;
          script.onload = resolve;
          script.src = url;
          document.body.appendChild(script);
        })));
      <\/script><script src="${url}" onload="frameElement.ready()"><\/script></body>`);
      written.close();
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
  window.Worker = window.IFrameWorker;
}
