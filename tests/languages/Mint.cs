// dotnet run PEM KID ISSUER APPLICATION_ID PLAYER_ID [EMAIL [USERNAME]]
// dotnet add package Microsoft.IdentityModel.JsonWebTokens
using System.Security.Cryptography;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;

var ecdsa = ECDsa.Create(); // once per process, and not disposed: the library caches what signs with it
ecdsa.ImportFromPem(File.ReadAllText(args[0]));
var key = new ECDsaSecurityKey(ecdsa) { KeyId = args[1] };

var claims = new Dictionary<string, object> { ["sub"] = args[4] };
if (args.Length > 5) claims["email"] = args[5];
if (args.Length > 6) claims["username"] = args[6];

var now = DateTime.UtcNow;
var token = new JsonWebTokenHandler().CreateToken(new SecurityTokenDescriptor
{
    TokenType = "at+jwt",
    Issuer = args[2],
    Audience = args[3],
    Claims = claims,
    IssuedAt = now,
    NotBefore = now,
    Expires = now.AddMinutes(5),
    SigningCredentials = new SigningCredentials(key, SecurityAlgorithms.EcdsaSha256),
});
Console.WriteLine(token);
