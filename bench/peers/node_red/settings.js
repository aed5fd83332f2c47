// The default settings of Node-RED, without projects, telemetry, updates and the installation of
// further nodes.
module.exports = {
    uiHost: "127.0.0.1",
    flowFile: "flows.json",
    credentialSecret: false,
    telemetry: { enabled: false, updateNotification: false },
    externalModules: { autoInstall: false, palette: { allowInstall: false, allowUpdate: false } },
    editorTheme: { projects: { enabled: false }, tours: false },
    // At level "info", Node-RED logs that it is connected to the broker, but not each message.
    logging: { console: { level: "info", metrics: false, audit: false } },
};
