// Flow 1 as a service: its four calls are steps. Restate records each step before the next one.
//
//     node service.js PORT NGINX_PORT
import http from "node:http";
import http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

const HOST = "127.0.0.1";
const [port, nginxPort] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true });

/** Make a call on a keep-alive connection. Resolves to the text of the response. */
function call(method, path, body) {
    return new Promise((resolve, reject) => {
        const headers = body === undefined ? {} : {
            "content-type": "application/json", "content-length": Buffer.byteLength(body),
        };
        const request = http.request({ agent, host: HOST, port: nginxPort, method, path, headers }, (answer) => {
            const parts = [];
            answer.on("data", (part) => parts.push(part));
            answer.on("end", () => resolve(Buffer.concat(parts).toString()));
            answer.on("error", reject);
        });
        request.on("error", reject);
        request.end(body);
    });
}

const post = (...items) => call("POST", "/endpoint1", JSON.stringify({ payload: items }));

const flow1 = restate.service({
    name: "Flow1",
    handlers: {
        run: async (ctx, trigger) => {
            const answer = await ctx.run("balancer", () => call("GET", "/LB/id_node"));
            if (JSON.parse(answer).id_node !== null) return;
            const result1 = await ctx.run("component1", () => post(trigger.payload));
            const result2 = await ctx.run("component2", () => post(result1));
            await ctx.run("component3", () => post(result1, result2));
        },
    },
});

http2.createServer(restate.createEndpointHandler({ services: [flow1] }))
    .listen(port, HOST, () => console.log("listening"));
