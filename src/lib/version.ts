/** Version of this release, as in package.json (a test compares them): the bundles must not need that file. */
export const version = "0.1.0";
