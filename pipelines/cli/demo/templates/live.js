// The microphone of the page: its sound goes to the page's own server, and the answers are shown as they come.
"use strict";

(() => {
  const RATE = 16000;
  const MOST_BEHIND = 10 * RATE * 2; // bytes that may wait to be sent: 10 s
  const MOST_TURNS = 200;

  let session = null;

  const part = (name) => document.getElementById(`live-${name}`);
  const say = (status) => { part("status").textContent = status; };
  const complain = (sentence) => {
    const trouble = part("trouble");
    trouble.textContent = sentence;
    trouble.className = sentence ? "m-trouble" : "";
  };

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function percent(share) {
    return share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;
  }

  function clock(seconds) {
    const whole = Math.floor(seconds);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  // One line of the conversation; labels come from the server and are shown as text only.
  function row(message, number) {
    const line = document.createElement("li");
    const said = element("div", "m-said", "");
    const seconds = (message.end - message.start).toFixed(1);
    said.append(element("p", "", number === "…" ? `speaking for ${seconds} s` : `${seconds} s of speech`));
    said.append(element("p", "m-soft m-small", `at ${clock(message.start)} · heard by ${message.modalities_used}`));
    const verdict = element("div", "m-verdict", "");
    verdict.append(element("b", "", message.label), element("span", "", percent(Math.max(...message.probabilities))));
    line.append(element("span", "m-number", number), said, verdict);
    return line;
  }

  function show(message) {
    const list = part("turns");
    list.querySelector(".m-interim")?.remove();
    if (message.type === "interim") {
      const line = row(message, "…");
      line.classList.add("m-interim");
      line.setAttribute("aria-hidden", "true"); // read out once, when the turn has ended
      list.append(line);
      return;
    }
    const line = row(message, String(message.turn + 1));
    line.dataset.turn = message.turn;
    const before = list.querySelector(`[data-turn="${message.turn}"]`);
    if (before) before.replaceWith(line);
    else list.append(line);
    while (list.children.length > MOST_TURNS) list.firstChild.remove();
  }

  // What is awaited may end long after "Stop", when another session may run: each wait is followed by a look at its own session.
  async function start(own) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The browser allows the microphone only on localhost and https.");
    }
    say("Waiting for the microphone");
    try {
      own.sound = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      });
    } catch (error) {
      throw new Error(`The browser gives no access to a microphone (${error.name}).`);
    }
    if (own.isOver) return release(own);
    own.context = new AudioContext();
    await own.context.resume();
    if (own.isOver) return release(own);
    await own.context.audioWorklet.addModule("/live/worklet.js");
    if (own.isOver) return release(own);
    const worklet = new AudioWorkletNode(own.context, "mistere-pcm", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
    // What lies above half of the rate that is sent would come back as lower tones.
    const lowpass = new BiquadFilterNode(own.context, { type: "lowpass", frequency: 7000 });
    own.context.createMediaStreamSource(own.sound).connect(lowpass).connect(worklet);
    const address = new URL("/live/stream", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    own.socket = new WebSocket(address);
    own.socket.onopen = () => {
      const interim = part("button").closest("#live").dataset.interim === "true";
      own.socket.send(JSON.stringify({ type: "start", interim }));
    };
    own.socket.onmessage = (event) => receive(own, JSON.parse(event.data));
    own.socket.onclose = (event) => {
      end(own, event.code === 1000 ? "" : event.reason || "The connection to the predictor was lost.");
    };
    worklet.port.onmessage = (event) => {
      if (!own.isReady || own.isOver) return;
      own.socket.send(event.data);
      if (own.socket.bufferedAmount > MOST_BEHIND) end(own, "The connection is too slow for live sound.");
    };
  }

  function receive(own, message) {
    if (message.type === "ready") {
      part("turns").replaceChildren();
      own.isReady = true;
      say("Listening");
    } else if (message.type === "error") {
      complain(message.error);
    } else if (!(message.type === "interim" && own.isOver)) {
      show(message);
    }
  }

  function release(own) {
    own.sound?.getTracks().forEach((track) => track.stop());
    own.context?.close();
    own.sound = own.context = null; // a context can be closed once
  }

  // Stop listening; the answers to what was said still come.
  function hangUp(own) {
    own.isOver = true;
    release(own);
    const state = own.socket?.readyState ?? WebSocket.CONNECTING;
    if (state === WebSocket.OPEN) {
      say("Waiting for the last answers");
      own.socket.send('{"type": "end"}');
    } else if (state === WebSocket.CONNECTING) {
      end(own, ""); // nothing was sent, so nothing is answered
    }
  }

  function end(own, sentence) {
    own.isOver = true;
    release(own);
    own.socket?.close();
    if (session !== own) return;
    session = null;
    document.querySelector("#live-turns .m-interim")?.remove();
    const button = part("button");
    button.setAttribute("aria-pressed", "false");
    button.textContent = "Start the microphone";
    say("");
    complain(sentence);
  }

  function toggle(button) {
    if (session) {
      hangUp(session);
      return;
    }
    const own = { isOver: false };
    session = own;
    complain("");
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop the microphone";
    start(own).catch((error) => end(own, error.message));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("#live-button");
    if (button) toggle(button);
  });
})();
