// java Mint.java PEM KID ISSUER APPLICATION_ID PLAYER_ID [EMAIL [USERNAME]]
import static java.nio.charset.StandardCharsets.UTF_8;

import java.nio.file.*;
import java.security.*;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.Base64;

class Mint {
    public static void main(String[] args) throws Exception {
        String pem = Files.readString(Path.of(args[0])).replaceAll("-----[A-Z ]+-----|\\s", "");
        PrivateKey key = KeyFactory.getInstance("EC")
            .generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));

        long now = Instant.now().getEpochSecond(); // seconds
        String header = "{\"alg\":\"ES256\",\"kid\":" + json(args[1]) + ",\"typ\":\"at+jwt\"}";
        String claims = "{\"iss\":" + json(args[2]) + ",\"aud\":" + json(args[3]) + ",\"sub\":" + json(args[4])
            + ",\"iat\":" + now + ",\"exp\":" + (now + 300)
            + (args.length > 5 ? ",\"email\":" + json(args[5]) : "")
            + (args.length > 6 ? ",\"username\":" + json(args[6]) : "") + "}";
        String signingInput = base64url(header.getBytes(UTF_8)) + "." + base64url(claims.getBytes(UTF_8));

        Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format"); // raw r and s, not DER
        signature.initSign(key);
        signature.update(signingInput.getBytes(UTF_8));
        System.out.println(signingInput + "." + base64url(signature.sign()));
    }

    static String base64url(byte[] bytes) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }

    static String json(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            out.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
        }
        return out.append('"').toString();
    }
}
