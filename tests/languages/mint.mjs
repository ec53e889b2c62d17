// node mint.mjs PEM KID ISSUER APPLICATION_ID PLAYER_ID [EMAIL [USERNAME]]
import { readFile } from "node:fs/promises";
import { SignJWT, importPKCS8 } from "jose";

const [pem, kid, issuer, applicationId, playerId, email, username] = process.argv.slice(2);
const key = await importPKCS8(await readFile(pem, "utf8"), "ES256");

const now = Math.floor(Date.now() / 1000); // seconds
const token = await new SignJWT({ email, username }) // undefined is left out
  .setProtectedHeader({ alg: "ES256", kid, typ: "at+jwt" })
  .setIssuer(issuer)
  .setAudience(applicationId)
  .setSubject(playerId)
  .setIssuedAt(now)
  .setExpirationTime(now + 300)
  .sign(key);
console.log(token);
