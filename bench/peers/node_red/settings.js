// The settings that a first start writes, without projects, catalogues of nodes, telemetry and
// updates.
module.exports = {
    uiHost: "127.0.0.1",
    flowFile: "flows.json",
    credentialSecret: false,
    telemetry: { enabled: false, updateNotification: false },
    externalModules: { autoInstall: false, palette: { allowInstall: false, allowUpdate: false } },
    editorTheme: { projects: { enabled: false }, tours: false },
    // "info" logs when the broker is connected, and no messages.
    logging: { console: { level: "info", metrics: false, audit: false } },
};
