// Calls a service with perspective-api-client from npm. That client has Perspective's host built in;
// the request interceptor is all that a team adds to send its requests to another host.
//
//     node perspective.js URL KEY TEXT OPTIONS   → {"reply": …} or {"name", "message", "status", "body"}
"use strict";

const axios = require("axios");
const Perspective = require("perspective-api-client");

const [url, key, text, options] = process.argv.slice(2);
axios.interceptors.request.use((request) => ({
  ...request,
  url: request.url.replace("https://commentanalyzer.googleapis.com", url),
}));

new Perspective({ apiKey: key })
  .analyze(JSON.parse(text), JSON.parse(options))
  .then((reply) => console.log(JSON.stringify({ reply })))
  .catch((error) => {
    const { name, message, response = {} } = error;
    console.log(JSON.stringify({ name, message, status: response.status, body: response.data }));
  });
