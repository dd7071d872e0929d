import { X509Certificate } from "node:crypto";
import { createServer, connect } from "node:tls";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { createAuthority } from "./certificates.ts";

test("a client certificate names user and groups and is signed by the authority", () => {
  const authority = createAuthority("test-ca");
  const { cert, key } = authority.issue({
    commonName: "system:node:host-1",
    groups: ["system:nodes", "second"],
    usage: "client",
  });
  const parsed = new X509Certificate(cert);
  expect(parsed.subject).toBe("O=system:nodes\nO=second\nCN=system:node:host-1");
  expect(parsed.issuer).toBe("CN=test-ca");
  expect(parsed.verify(new X509Certificate(authority.cert).publicKey)).toBe(true);
  expect(parsed.checkIssued(new X509Certificate(authority.cert))).toBe(true);
  expect(parsed.ca).toBe(false);
  expect(new X509Certificate(authority.cert).ca).toBe(true);
  expect(key).toContain("BEGIN PRIVATE KEY");
});

test("a server and a client certificate make a mutual TLS connection", async () => {
  const authority = createAuthority("test-ca");
  const server = createServer(
    {
      ...authority.issue({ commonName: "server", usage: "server", hosts: ["localhost", "127.0.0.1"] }),
      ca: authority.cert,
      requestCert: true,
      rejectUnauthorized: true,
    },
    (socket) => socket.end(String(socket.getPeerCertificate().subject.CN)),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address: AddressInfo | string | null = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const said = await new Promise<string>((resolve, reject) => {
    const socket = connect({
      host: "127.0.0.1",
      port: address.port,
      ca: authority.cert,
      ...authority.issue({ commonName: "client-1", usage: "client" }),
    });
    let text = "";
    socket.on("data", (chunk) => {
      text += String(chunk);
    });
    socket.on("end", () => resolve(text));
    socket.on("error", reject);
  });
  server.close();
  expect(said).toBe("client-1");
});

test("a certificate of another authority of the same name is not accepted", () => {
  const { cert } = createAuthority("test-ca").issue({ commonName: "x", usage: "client" });
  expect(
    new X509Certificate(cert).verify(new X509Certificate(createAuthority("test-ca").cert).publicKey),
  ).toBe(false);
});
