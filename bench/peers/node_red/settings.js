// What a first start would write, less what reaches out or asks: no projects, no catalogues of
// nodes, no question about telemetry or updates.
module.exports = {
    uiHost: "127.0.0.1",
    flowFile: "flows.json",
    credentialSecret: false,
    telemetry: { enabled: false, updateNotification: false },
    externalModules: { autoInstall: false, palette: { allowInstall: false, allowUpdate: false } },
    editorTheme: { projects: { enabled: false }, tours: false },
    // "info" says when the broker is connected, and nothing of a message.
    logging: { console: { level: "info", metrics: false, audit: false } },
};
