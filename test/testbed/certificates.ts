/**
 * A certificate authority of the test bed's own, written out in DER (RFC 5280): ECDSA P-256 with SHA-256. So a
 * machine needs no openssl, and a client certificate for each of a hundred kubelets costs a millisecond.
 */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { isIPv4 } from "node:net";

/** A certificate and its private key (PKCS #8), both PEM. */
export interface KeyAndCertificate {
  readonly key: string;
  readonly cert: string;
}

/** Whom a certificate is for. */
export interface CertificateRequest {
  /** Common name: for Kubernetes the user. */
  readonly commonName: string;
  /** Organisations: for Kubernetes the groups. Default none. */
  readonly groups?: readonly string[];
  /** What it may be used for. */
  readonly usage: "server" | "client";
  /** DNS names and IPv4 addresses that a server answers to. Default none. */
  readonly hosts?: readonly string[];
}

/** Issues certificates that are valid from an hour ago to a year from now. */
export interface CertificateAuthority {
  /** The authority's own certificate, PEM. */
  readonly cert: string;
  /** The authority's private key, PEM: the controller manager signs with it. */
  readonly key: string;
  issue(request: CertificateRequest): KeyAndCertificate;
}

/** Makes a new authority. Its key never leaves the test bed's folder. */
export function createAuthority(commonName: string): CertificateAuthority {
  const keys = newKeys();
  const name = distinguishedName(commonName, []);
  const authority = { issuer: name, issuerKeys: keys };
  const cert = certificate({
    ...authority,
    subject: name,
    subjectKey: keys.publicKey,
    extensions: authorityExtensions(),
  });
  return {
    cert,
    key: keyPem(keys.privateKey),
    issue({ commonName: subject, groups = [], usage, hosts = [] }) {
      const leaf = newKeys();
      return {
        key: keyPem(leaf.privateKey),
        cert: certificate({
          ...authority,
          subject: distinguishedName(subject, groups),
          subjectKey: leaf.publicKey,
          extensions: leafExtensions(usage, hosts),
        }),
      };
    },
  };
}

/** A key pair for signing service account tokens, PEM: PKCS #8 and SPKI. */
export function signingKeyPair(): { readonly privateKey: string; readonly publicKey: string } {
  const { privateKey, publicKey } = newKeys();
  return {
    privateKey: keyPem(privateKey),
    publicKey: publicKey.export({ type: "spki", format: "pem" }).toString(),
  };
}

function newKeys(): { publicKey: KeyObject; privateKey: KeyObject } {
  return generateKeyPairSync("ec", { namedCurve: "P-256" });
}

function keyPem(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

interface ToSign {
  readonly issuer: Buffer;
  readonly issuerKeys: { readonly publicKey: KeyObject; readonly privateKey: KeyObject };
  readonly subject: Buffer;
  readonly subjectKey: KeyObject;
  readonly extensions: readonly Buffer[];
}

const hour = 3_600_000;
const year = 365 * 24 * hour;

/** Certificate and TBSCertificate of RFC 5280, section 4.1. */
function certificate({ issuer, issuerKeys, subject, subjectKey, extensions }: ToSign): string {
  const ecdsaWithSha256 = sequence(oid("1.2.840.10045.4.3.2"));
  const keyIds = [
    extension("2.5.29.14", false, octets(keyId(subjectKey))),
    extension("2.5.29.35", false, sequence(tlv(0x80, keyId(issuerKeys.publicKey)))),
  ];
  const toBeSigned = sequence(
    tlv(0xa0, integer(Buffer.from([2]))),
    // Positive and without leading zeros, as DER wants an INTEGER.
    integer(Buffer.concat([Buffer.from([0x40]), randomBytes(15)])),
    ecdsaWithSha256,
    issuer,
    sequence(utcTime(Date.now() - hour), utcTime(Date.now() + year)),
    subject,
    subjectKey.export({ type: "spki", format: "der" }),
    tlv(0xa3, sequence(...extensions, ...keyIds)),
  );
  const signature = sign("sha256", toBeSigned, issuerKeys.privateKey);
  const der = sequence(toBeSigned, ecdsaWithSha256, bits(signature));
  const lines = der.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

function authorityExtensions(): Buffer[] {
  return [
    extension("2.5.29.19", true, sequence(tlv(0x01, Buffer.from([0xff])))),
    // keyCertSign and cRLSign.
    extension("2.5.29.15", true, tlv(0x03, Buffer.from([1, 0x06]))),
  ];
}

function leafExtensions(usage: "server" | "client", hosts: readonly string[]): Buffer[] {
  const extendedUsage = usage === "server" ? "1.3.6.1.5.5.7.3.1" : "1.3.6.1.5.5.7.3.2";
  const extensions = [
    // digitalSignature.
    extension("2.5.29.15", true, tlv(0x03, Buffer.from([7, 0x80]))),
    extension("2.5.29.37", false, sequence(oid(extendedUsage))),
  ];
  if (hosts.length > 0)
    extensions.push(extension("2.5.29.17", false, sequence(...hosts.map(alternativeName))));
  return extensions;
}

function alternativeName(host: string): Buffer {
  return isIPv4(host) ? tlv(0x87, Buffer.from(host.split(".").map(Number))) : tlv(0x82, Buffer.from(host));
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [tlv(0x01, Buffer.from([0xff]))] : []), octets(value));
}

/** RDNSequence with one attribute per relative name: organisations first, then the common name. */
function distinguishedName(commonName: string, groups: readonly string[]): Buffer {
  const attribute = (type: string, value: string) =>
    tlv(0x31, sequence(oid(type), tlv(0x0c, Buffer.from(value))));
  return sequence(...groups.map((group) => attribute("2.5.4.10", group)), attribute("2.5.4.3", commonName));
}

/** Key identifier: SHA-1 of the subject public key (RFC 5280, 4.2.1.2), here over the whole SPKI. */
function keyId(key: KeyObject): Buffer {
  return createHash("sha1")
    .update(key.export({ type: "spki", format: "der" }))
    .digest();
}

function tlv(tag: number, ...content: Buffer[]): Buffer {
  const body = Buffer.concat(content);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body]);
  const size = Buffer.alloc(4);
  size.writeUInt32BE(body.length);
  const digits = size.subarray(size.findIndex((byte) => byte !== 0));
  return Buffer.concat([Buffer.from([tag, 0x80 | digits.length]), digits, body]);
}

const sequence = (...content: Buffer[]): Buffer => tlv(0x30, ...content);
const octets = (value: Buffer): Buffer => tlv(0x04, value);
const bits = (value: Buffer): Buffer => tlv(0x03, Buffer.from([0]), value);
const integer = (bytes: Buffer): Buffer => tlv(0x02, bytes);

/** UTCTime, which RFC 5280 wants for years before 2050: YYMMDDHHMMSSZ. */
function utcTime(epochMs: number): Buffer {
  return tlv(0x17, Buffer.from(`${new Date(epochMs).toISOString().replace(/[-:T]/g, "").slice(2, 14)}Z`));
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const digits = [arc & 0x7f];
    for (let left = arc >>> 7; left > 0; left >>>= 7) digits.unshift((left & 0x7f) | 0x80);
    bytes.push(...digits);
  }
  return tlv(0x06, Buffer.from(bytes));
}
