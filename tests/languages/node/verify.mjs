// node verify.mjs JWKS ISSUER APPLICATION_ID TOKEN: the claims of a token, as jose reads it
import { readFile } from "node:fs/promises";
import { createLocalJWKSet, jwtVerify } from "jose";

const [jwks, issuer, audience, token] = process.argv.slice(2);
const keys = createLocalJWKSet(JSON.parse(await readFile(jwks, "utf8")));
const { payload } = await jwtVerify(token, keys, { issuer, audience, typ: "at+jwt" });
console.log(JSON.stringify(payload));
